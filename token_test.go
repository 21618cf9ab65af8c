package soulbox_test

import (
	"encoding/hex"
	"testing"

	"github.com/soulbox/soulbox"
)

func TestAgentToken(t *testing.T) {
	var seed soulbox.TokenSeed
	for i := range seed {
		seed[i] = byte(i)
	}
	other := seed
	other[31]++

	// Computed apart with: printf 'soulbox agent token v1\0i1' |
	// openssl dgst -sha256 -mac HMAC -macopt hexkey:000102…1f
	// Sandboxes that run keep their token over an upgrade, so it must not change.
	const want = "ce5152b69839192e171acb7eb27370a3bd55b49746e9924a21e0123547a5c518"
	if got := seed.AgentToken("i1"); got != want {
		t.Errorf("AgentToken = %s, want %s", got, want)
	}
	if seed.AgentToken("i1") == seed.AgentToken("i2") {
		t.Error("two sandboxes have one token")
	}
	if seed.AgentToken("i1") == other.AgentToken("i1") {
		t.Error("two seeds give one token")
	}
}

func TestTrafficToken(t *testing.T) {
	var seed soulbox.TokenSeed
	for i := range seed {
		seed[i] = byte(i)
	}
	// printf 'soulbox traffic token v1\0i1' | openssl dgst -sha256 -mac HMAC …
	// Private sandboxes keep it over an upgrade, so it must not change.
	const want = "1d0adac5e81476d3ce4bea2dc69c3f7b188a8245467b227efe7b33081d5afebe"
	if got := seed.TrafficToken("i1"); got != want {
		t.Errorf("TrafficToken = %s, want %s", got, want)
	}
	if seed.TrafficToken("i1") == seed.TrafficToken("i2") {
		t.Error("two sandboxes have one token")
	}
}

func TestBuildKey(t *testing.T) {
	var seed soulbox.TokenSeed
	for i := range seed {
		seed[i] = byte(i)
	}
	// printf 'soulbox build secrets v1\0' | openssl dgst -sha256 -mac HMAC …
	// Builds that wait keep their secrets over an upgrade, so it must not change.
	const want = "fcb474d9e145003fdb6a2ea8fe7ef88b9ddacbffb8efbe0a2801fa790d1368b0"
	if got := hex.EncodeToString(sliceOf(seed.BuildKey())); got != want {
		t.Errorf("BuildKey = %s, want %s", got, want)
	}
	seed[31]++
	if hex.EncodeToString(sliceOf(seed.BuildKey())) == want {
		t.Error("two seeds give one key")
	}
}

func sliceOf(b [32]byte) []byte { return b[:] }
