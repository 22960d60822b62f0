package secrets
import ("testing";"fmt";"os";"path/filepath";"strings")
func TestTmpReach(t *testing.T){ rs,_:=compileBuiltin(); for i,r:=range rs.rules { if rs.reach[i].bounded==0 {fmt.Println(r.RuleID, r.Keywords)} } }
func BenchmarkGoSrc(b *testing.B){
 var data []byte
 filepath.Walk("/usr/local/go/src/net", func(p string, i os.FileInfo, err error) error { if strings.HasSuffix(p,".go") { x,_:=os.ReadFile(p); data=append(data,x...) }; return nil })
 s:=newScanner(b, Options{}); b.SetBytes(int64(len(data)))
 var f []Finding
 for b.Loop() { f,_=s.Scan(b.Context(), data) }
 fmt.Println(len(data), len(f)); m:=map[string]int{}; for _,x:=range f {m[x.Rule]++}; fmt.Println(m)
}
func TestTmpTail(t *testing.T){ rs,_:=compileBuiltin(); n:=0; for i,r:=range rs.rules { if rs.reach[i].tail==nil && rs.reach[i].head==nil {fmt.Println(r.RuleID, r.Keywords)} else {n++} }; fmt.Println("with tail",n) }
