package egress

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
)

// parseKey reads the private key of an app: PEM, in PKCS #1 or PKCS #8.
func parseKey(text string) (*rsa.PrivateKey, error) {
	unfit := errors.New("an RSA private key in PEM was wanted")
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, unfit
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if rsaKey, ok := key.(*rsa.PrivateKey); err == nil && ok {
		return rsaKey, nil
	}
	return nil, unfit // the library's error could quote
}
