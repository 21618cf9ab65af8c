package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/google/nftables"
)

// A firewall keeps the table of one instance in the kernel and remembers what
// it holds, so that it can be put back after somebody flushed it. Its methods
// are safe for concurrent use.
type firewall struct {
	plan  plan
	rules ruleset

	mu         sync.Mutex
	guests     map[Slot]bool   // +checklocks:mu
	offline    map[Slot]bool   // +checklocks:mu
	forwarding map[string]bool // +checklocks:mu
}

// newFirewall remembers what the table holds, if there is one: a network that
// was offline or a device that was made to forward. It changes nothing.
func newFirewall(p plan) (*firewall, error) {
	f := &firewall{plan: p, guests: make(map[Slot]bool), offline: make(map[Slot]bool), forwarding: make(map[string]bool)}
	f.rules = newRuleset(p, p.prefix.Addr())
	offline, err := names(&nftables.Conn{}, f.rules.offline)
	if err != nil {
		return nil, err
	}
	for _, device := range offline {
		if s, ok := p.slotOf(device); ok {
			f.offline[s] = true
		}
	}
	forwarding, err := names(&nftables.Conn{}, f.rules.forwarding)
	if err != nil {
		return nil, err
	}
	for _, device := range forwarding {
		f.forwarding[device] = true
	}
	return f, nil
}

// names returns the elements of a set of device names; none if there is no
// such table.
func names(c *nftables.Conn, s *nftables.Set) ([]string, error) {
	tables, err := c.ListTablesOfFamily(s.Table.Family)
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == s.Table.Name }) {
		return nil, nil
	}
	elements, err := c.GetSetElements(s)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a table of ours that went away, or was made without the set
	}
	if err != nil {
		return nil, fmt.Errorf("read set %s of nftables table %s: %w", s.Name, s.Table.Name, err)
	}
	var out []string
	for _, e := range elements {
		name, _, _ := bytes.Cut(e.Key, []byte{0})
		out = append(out, string(name))
	}
	return out, nil
}

// install puts the table into the kernel with exactly the given slots; those
// that were offline stay so.
func (f *firewall) install(rules ruleset, slots []Slot) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = rules
	f.guests = make(map[Slot]bool)
	for _, s := range slots {
		f.guests[s] = true
	}
	maps.DeleteFunc(f.offline, func(s Slot, _ bool) bool { return !f.guests[s] })
	return f.writeLocked()
}

// +checklocks:f.mu
func (f *firewall) writeLocked() error {
	var guests, offline, forwarding []nftables.SetElement
	for s := range f.guests {
		guests = append(guests, guestElement(f.plan.device(s), f.plan.guest(s)))
	}
	for s := range f.offline {
		offline = append(offline, nameElement(f.plan.device(s)))
	}
	for device := range f.forwarding {
		forwarding = append(forwarding, nameElement(device))
	}
	c := &nftables.Conn{}
	if err := f.rules.replace(c, guests, offline, forwarding); err != nil {
		return fmt.Errorf("write nftables table %s: %w", f.plan.table(), err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", f.plan.table(), err)
	}
	return nil
}

// restore writes the table again if it is gone or has lost its chains, and
// says whether it was.
func (f *firewall) restore() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	chains, err := (&nftables.Conn{}).ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables chains: %w", err)
	}
	if slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == f.plan.table() }) {
		return false, nil
	}
	return true, f.writeLocked()
}

// admit lets the slot's address through its device.
func (f *firewall) admit(s Slot) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &nftables.Conn{}
	if err := c.SetAddElements(f.rules.guests, []nftables.SetElement{guestElement(f.plan.device(s), f.plan.guest(s))}); err != nil {
		return fmt.Errorf("admit %s: %w", f.plan.device(s), err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("admit %s: %w", f.plan.device(s), err)
	}
	f.guests[s] = true
	return nil
}

// expel forgets slots whose devices are gone. Unknown ones are left out, so
// that it can be repeated.
func (f *firewall) expel(slots []Slot) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var guests, offline []nftables.SetElement
	for _, s := range slots {
		if f.guests[s] {
			guests = append(guests, guestElement(f.plan.device(s), f.plan.guest(s)))
		}
		if f.offline[s] {
			offline = append(offline, nameElement(f.plan.device(s)))
		}
	}
	for _, s := range slots {
		delete(f.guests, s)
		delete(f.offline, s)
	}
	if len(guests) == 0 && len(offline) == 0 {
		return nil
	}
	if f.removeLocked(guests, offline) == nil {
		return nil
	}
	return f.writeLocked() // the kernel holds something else than we thought
}

// +checklocks:f.mu
func (f *firewall) removeLocked(guests, offline []nftables.SetElement) error {
	c := &nftables.Conn{}
	for _, d := range []struct {
		set      *nftables.Set
		elements []nftables.SetElement
	}{{f.rules.guests, guests}, {f.rules.offline, offline}} {
		if len(d.elements) == 0 {
			continue
		}
		if err := c.SetDeleteElements(d.set, d.elements); err != nil {
			return err
		}
	}
	return c.Flush()
}

// setOffline takes the internet from a slot or gives it back, for packets of
// existing connections too. It returns when the kernel has it.
func (f *firewall) setOffline(s Slot, offline bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.offline[s] == offline {
		return nil
	}
	before := maps.Clone(f.offline)
	if offline {
		f.offline[s] = true
	} else {
		delete(f.offline, s)
	}
	element := []nftables.SetElement{nameElement(f.plan.device(s))}
	c := &nftables.Conn{}
	change := c.SetDeleteElements
	if offline {
		change = c.SetAddElements
	}
	err := change(f.rules.offline, element)
	if err == nil {
		err = c.Flush()
	}
	if err == nil {
		return nil
	}
	if f.writeLocked() == nil { // the table was gone; now it holds this too
		return nil
	}
	f.offline = before
	return fmt.Errorf("change nftables set %s: %w", f.rules.offline.Name, err)
}

// recordForwarding notes in the kernel which device we made to forward.
func (f *firewall) recordForwarding(device string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.forwarding[device] {
		return nil
	}
	c := &nftables.Conn{}
	if err := c.SetAddElements(f.rules.forwarding, []nftables.SetElement{nameElement(device)}); err != nil {
		return fmt.Errorf("record forwarding of %s: %w", device, err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("record forwarding of %s: %w", device, err)
	}
	f.forwarding[device] = true
	return nil
}

// remove deletes the table and returns the devices that were made to forward.
func (f *firewall) remove() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &nftables.Conn{}
	c.AddTable(f.rules.table) // so that there is something to delete
	c.DelTable(f.rules.table)
	if err := c.Flush(); err != nil {
		return nil, fmt.Errorf("delete nftables table %s: %w", f.plan.table(), err)
	}
	return slices.Sorted(maps.Keys(f.forwarding)), nil
}
