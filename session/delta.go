package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/soulbox/soulbox"
)

// summary is what is remembered of a state.
type summary struct {
	Variables map[string]json.RawMessage `json:"variables"`
	Members   map[string]memberSummary   `json:"members"`
}

type memberSummary struct {
	State     string                    `json:"state"`
	Known     bool                      `json:"known"` // what its agent tells
	Processes map[string]processSummary `json:"processes,omitempty"`
	Ports     map[string]uint16         `json:"ports,omitempty"` // by address and port
	Addresses map[string]string         `json:"addresses,omitempty"`
}

type processSummary struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	Dir     string `json:"dir"`
	Rest    string `json:"rest"` // a hash of its open files
}

const commandKept = 256 // bytes of a command line in a summary

func summarise(s *soulbox.SessionState) summary {
	sum := summary{Variables: s.Variables, Members: map[string]memberSummary{}}
	for _, m := range s.Members {
		out := memberSummary{State: string(m.State), Known: m.Guest != nil}
		if m.Guest != nil {
			out.Processes, out.Ports, out.Addresses = map[string]processSummary{}, map[string]uint16{}, map[string]string{}
			for _, p := range m.Guest.Processes {
				files := slices.Clone(p.OpenFiles)
				slices.Sort(files)
				hash := sha256.Sum256([]byte(strings.Join(files, "\x00")))
				command := p.Command[:min(len(p.Command), commandKept)]
				// The command tells apart what has the same number.
				key := fmt.Sprintf("%d %x", p.PID, sha256.Sum256([]byte(p.Command)))
				out.Processes[key] = processSummary{
					PID: p.PID, Command: strings.ToValidUTF8(command, "�"), Dir: strings.ToValidUTF8(p.Dir, "�"), Rest: hex.EncodeToString(hash[:8]),
				}
			}
			for _, p := range m.Guest.Ports {
				key := fmt.Sprintf("%s %d", p.Address, p.Port)
				out.Ports[key], out.Addresses[key] = p.Port, p.Address
			}
		}
		sum.Members[string(m.Sandbox)] = out
	}
	return sum
}

// delta is what differs between two states, in a fixed order.
func delta(from, to summary) *soulbox.StateDelta {
	d := &soulbox.StateDelta{Known: true, States: map[soulbox.SandboxID]soulbox.State{}}
	d.Variables.Set = map[string]json.RawMessage{}
	for name, value := range to.Variables {
		if old, ok := from.Variables[name]; !ok || !bytes.Equal(old, value) {
			d.Variables.Set[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(from.Variables)) {
		if _, ok := to.Variables[name]; !ok {
			d.Variables.Removed = append(d.Variables.Removed, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(from.Members)) {
		if _, ok := to.Members[name]; !ok {
			d.Left = append(d.Left, soulbox.SandboxID(name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(to.Members)) {
		id, now := soulbox.SandboxID(name), to.Members[name]
		old, ok := from.Members[name]
		if !ok {
			d.Joined = append(d.Joined, id)
		} else if old.State != now.State {
			d.States[id] = soulbox.State(now.State)
		}
		if !now.Known {
			continue // what ran still does when it is resumed, or nobody knows
		}
		processes(d, id, old, now)
		ports(d, id, old, now)
	}
	return d
}

func processes(d *soulbox.StateDelta, id soulbox.SandboxID, old, now memberSummary) {
	noun := func(p processSummary) soulbox.MemberProcess {
		return soulbox.MemberProcess{Sandbox: id, PID: p.PID, Command: p.Command, Dir: p.Dir}
	}
	for _, key := range slices.Sorted(maps.Keys(old.Processes)) {
		if _, ok := now.Processes[key]; !ok {
			d.Ended = append(d.Ended, noun(old.Processes[key]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(now.Processes)) {
		switch was, ok := old.Processes[key]; {
		case !ok:
			d.Started = append(d.Started, noun(now.Processes[key]))
		case was != now.Processes[key]:
			d.Changed = append(d.Changed, noun(now.Processes[key]))
		}
	}
}

func ports(d *soulbox.StateDelta, id soulbox.SandboxID, old, now memberSummary) {
	noun := func(m memberSummary, key string) soulbox.MemberPort {
		return soulbox.MemberPort{Sandbox: id, Port: m.Ports[key], Address: m.Addresses[key]}
	}
	for _, key := range slices.Sorted(maps.Keys(old.Ports)) {
		if _, ok := now.Ports[key]; !ok {
			d.Closed = append(d.Closed, noun(old, key))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(now.Ports)) {
		if _, ok := old.Ports[key]; !ok {
			d.Opened = append(d.Opened, noun(now, key))
		}
	}
}
