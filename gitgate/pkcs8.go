package gitgate

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"hash"
)

// Object identifiers of RFC 8018: the scheme, the derivation, its functions, and ciphers by the length of their keys.
var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}

	prfs = map[string]func() hash.Hash{
		"": sha1.New, "1.2.840.113549.2.7": sha1.New, "1.2.840.113549.2.9": sha256.New, "1.2.840.113549.2.10": sha512.New384, "1.2.840.113549.2.11": sha512.New,
	}
	aesKeys = map[string]int{"2.16.840.1.101.3.4.1.2": 16, "2.16.840.1.101.3.4.1.22": 24, "2.16.840.1.101.3.4.1.42": 32}
)

// maxIterations bounds the work that a key file may ask for.
const maxIterations = 10_000_000

var errPKCS8 = errors.New("an encrypted PKCS #8 key of a kind that is not known; PBES2 with AES-CBC was wanted")

// openPKCS8 decrypts an "ENCRYPTED PRIVATE KEY" (RFC 5958 §3), as `ssh-keygen -m PKCS8` and openssl write it.
func openPKCS8(block *pem.Block, passphrase string) (any, error) {
	var box struct {
		Scheme pkix.AlgorithmIdentifier
		Data   []byte
	}
	var scheme struct{ Derivation, Cipher pkix.AlgorithmIdentifier }
	var derivation struct {
		Salt       []byte
		Iterations int
		Length     int                      `asn1:"optional"`
		PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
	}
	var iv []byte
	if unwrap(block.Bytes, &box) || !box.Scheme.Algorithm.Equal(oidPBES2) || unwrap(box.Scheme.Parameters.FullBytes, &scheme) ||
		!scheme.Derivation.Algorithm.Equal(oidPBKDF2) || unwrap(scheme.Derivation.Parameters.FullBytes, &derivation) ||
		unwrap(scheme.Cipher.Parameters.FullBytes, &iv) {
		return nil, errPKCS8
	}
	size, prf := aesKeys[scheme.Cipher.Algorithm.String()], prfs[derivation.PRF.Algorithm.String()]
	if size == 0 || prf == nil || derivation.Iterations < 1 || derivation.Iterations > maxIterations || len(iv) != aes.BlockSize || len(box.Data)%aes.BlockSize != 0 {
		return nil, errPKCS8
	}
	key, err := pbkdf2.Key(prf, passphrase, derivation.Salt, derivation.Iterations, size)
	if err != nil {
		return nil, errPKCS8
	}
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, errPKCS8
	}
	plain := make([]byte, len(box.Data))
	cipher.NewCBCDecrypter(c, iv).CryptBlocks(plain, box.Data)
	return parsePadded(plain)
}

// unwrap tells whether something is not the DER that was wanted.
func unwrap(der []byte, into any) (bad bool) {
	rest, err := asn1.Unmarshal(der, into)
	return err != nil || len(rest) > 0
}

// parsePadded takes the padding off (RFC 8018 §6.1.1); what does not fit is a wrong passphrase.
func parsePadded(plain []byte) (any, error) {
	if len(plain) == 0 {
		return nil, errPassphrase
	}
	n := int(plain[len(plain)-1])
	if n == 0 || n > aes.BlockSize || n > len(plain) {
		return nil, errPassphrase
	}
	key, err := x509.ParsePKCS8PrivateKey(plain[:len(plain)-n])
	if err != nil {
		return nil, errPassphrase
	}
	return key, nil
}
