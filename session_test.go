package soulbox_test

import (
	"testing"
	"time"

	"github.com/soulbox/soulbox"
)

func TestSessionIDs(t *testing.T) {
	for range 100 {
		if id := soulbox.NewSessionID(); !id.Valid() {
			t.Fatalf("NewSessionID returned %q, which is not valid", id)
		}
	}
	for _, id := range []soulbox.SessionID{"", "e", "i0123456789abcdefghi", "e0123456789abcdefghi/", "E0123456789abcdefghij", "../../../../../../../"} {
		if id.Valid() {
			t.Errorf("%q is valid", id)
		}
	}
}

func TestHeartbeatFilled(t *testing.T) {
	for _, test := range []struct {
		name     string
		in, want soulbox.Heartbeat
		fails    bool
	}{
		{"nothing said", soulbox.Heartbeat{}, soulbox.Heartbeat{Interval: 30 * time.Second, Timeout: 90 * time.Second, Then: soulbox.AbsencePauses}, false},
		{"rare ones", soulbox.Heartbeat{Interval: 20 * time.Hour}, soulbox.Heartbeat{Interval: 20 * time.Hour, Timeout: 24 * time.Hour, Then: soulbox.AbsencePauses}, false},
		{
			"all said",
			soulbox.Heartbeat{Interval: time.Second, Timeout: time.Second, Then: soulbox.AbsenceKills},
			soulbox.Heartbeat{Interval: time.Second, Timeout: time.Second, Then: soulbox.AbsenceKills},
			false,
		},
		{"too often", soulbox.Heartbeat{Interval: time.Millisecond}, soulbox.Heartbeat{}, true},
		{"negative", soulbox.Heartbeat{Interval: -time.Second}, soulbox.Heartbeat{}, true},
		{"missed before it is due", soulbox.Heartbeat{Interval: time.Minute, Timeout: time.Second}, soulbox.Heartbeat{}, true},
		{"too rare", soulbox.Heartbeat{Interval: 48 * time.Hour}, soulbox.Heartbeat{}, true},
		{"no such thing", soulbox.Heartbeat{Then: "panic"}, soulbox.Heartbeat{}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.in.Filled()
			if test.fails {
				if soulbox.KindOf(err) != soulbox.Invalid {
					t.Errorf("Filled = %+v, %v; want an Invalid error", got, err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("Filled = %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}
