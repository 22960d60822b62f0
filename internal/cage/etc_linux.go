package cage

import (
	"fmt"
	"os"
	"strings"

	"airlock/internal/bundle"
)

// generated is the part of the agent's /etc that is made, not shown.
var generated = map[string]string{
	"passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n" +
		"agent:x:1000:1000:agent:/home/agent:/bin/bash\n" +
		"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
	"group": "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n",
	// No server at all would mean the one on loopback: the same, said plainly.
	"resolv.conf":   "# There is no DNS in here: the proxies look names up.\nnameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
	"nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\nprotocols: files\n",
	"host.conf":     "multi on\n",
}

func (s Spec) writeEtc() error {
	if err := os.MkdirAll("etc", 0o755); err != nil {
		return err
	}
	for name, content := range generated {
		if err := os.WriteFile("etc/"+name, []byte(content), 0o444); err != nil {
			return fmt.Errorf("writing the agent's /etc/%s: %w", name, err)
		}
	}
	// By its own name, too: many programs look that up when they start.
	hosts := fmt.Sprintf("127.0.0.1 localhost %s\n127.0.0.1 %s\n::1 localhost ip6-localhost ip6-loopback\n", strings.Join(bundle.AgentNames(), " "), s.Pair)
	if err := os.WriteFile("etc/hosts", []byte(hosts), 0o444); err != nil {
		return fmt.Errorf("writing the agent's /etc/hosts: %w", err)
	}
	if err := os.WriteFile("etc/hostname", []byte(s.Pair+"\n"), 0o444); err != nil {
		return fmt.Errorf("writing the agent's /etc/hostname: %w", err)
	}
	return nil
}
