package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/soulbox/soulbox"
)

// jsonFlag adds --json to a verb that prints a table.
func jsonFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print JSON")
}

// json prints v, indented for people.
func (c *cli) json(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetEscapeHTML(false)
	if c.outTTY {
		enc.SetIndent("", "  ")
	}
	return enc.Encode(v)
}

// jsonLine prints v on a line of its own, for what never ends.
func (c *cli) jsonLine(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// print prints a line.
func (c *cli) print(format string, args ...any) error {
	_, err := fmt.Fprintf(c.out, format+"\n", args...)
	return err
}

// table prints rows under a head, in columns. Programs get neither: one row per
// line, with tabs between the cells.
func (c *cli) table(head []string, rows [][]string) error {
	if !c.outTTY {
		for _, row := range rows {
			if err := c.tabbed(row...); err != nil {
				return err
			}
		}
		return nil
	}
	width := make([]int, len(head))
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(clean(cell)))
		}
	}
	var b strings.Builder
	line := func(row []string, paint func(string, string) string) {
		for i, cell := range row {
			cell = clean(cell)
			pad := ""
			if i < len(row)-1 {
				pad = strings.Repeat(" ", width[i]+2-utf8.RuneCountInString(cell))
			}
			b.WriteString(paint(cell, cell) + pad)
		}
		b.WriteByte('\n')
	}
	line(head, func(s, _ string) string { return c.paint(s, bold) })
	for _, row := range rows {
		line(row, func(s, word string) string { return c.paint(s, colours[word]) })
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

// fields prints names and values, one pair per line; pairs without a value are
// left out.
func (c *cli) fields(list [][2]string) error {
	list = slices.DeleteFunc(list, func(f [2]string) bool { return f[1] == "" })
	width := 0
	for _, f := range list {
		width = max(width, len(f[0]))
	}
	for _, f := range list {
		if !c.outTTY {
			if err := c.tabbed(f[0], f[1]); err != nil {
				return err
			}
			continue
		}
		value := clean(f[1])
		if err := c.print("%s%s  %s", c.paint(f[0], bold), strings.Repeat(" ", width-len(f[0])), c.paint(value, colours[value])); err != nil {
			return err
		}
	}
	return nil
}

// tabbed prints cells with tabs between them.
func (c *cli) tabbed(cells ...string) error {
	row := make([]string, len(cells))
	for i, cell := range cells {
		row[i] = clean(cell)
	}
	return c.print("%s", strings.Join(row, "\t"))
}

// The colours of terminals, as the parameters of their escape sequence.
const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

// colours are of words that stand alone in a cell.
var colours = map[string]string{
	string(soulbox.Running):  green,
	string(soulbox.Starting): yellow,
	string(soulbox.Ending):   yellow,
	string(soulbox.Ended):    red,
	string(soulbox.Pausing):  yellow,
	string(soulbox.Paused):   cyan,
	string(soulbox.Resuming): yellow,
	"*":                      green,
	"warn":                   yellow,
	"error":                  red,
}

func (c *cli) paint(s, colour string) string {
	if !c.colour || colour == "" || s == "" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

// clean makes one line of s that cannot speak to the terminal: names, log lines
// and error messages may come from inside a sandbox.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r) || r == utf8.RuneError:
			return '�'
		default:
			return r
		}
	}, s)
}

// when prints a time: for people how far away it is, for programs what it is.
func (c *cli) when(t time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case c.outTTY:
		return relative(time.Since(t))
	default:
		return t.UTC().Format(time.RFC3339)
	}
}

// relative words a distance in time; a negative one is in the future.
func relative(d time.Duration) string {
	switch {
	case d < 0:
		return "in " + short(-d)
	case d < time.Second:
		return "now"
	default:
		return short(d) + " ago"
	}
}

// short words a duration by its largest unit.
func short(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	case d < 2*day:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	default:
		return strconv.Itoa(int(d/day)) + "d"
	}
}

// size prints a number of bytes: rounded for people, exact for programs.
func (c *cli) size(b soulbox.Bytes) string {
	if !c.outTTY {
		return strconv.FormatInt(int64(b), 10)
	}
	return rounded(b)
}

func rounded(b soulbox.Bytes) string {
	for _, u := range []struct {
		unit soulbox.Bytes
		name string
	}{{soulbox.GiB, "GiB"}, {soulbox.MiB, "MiB"}, {soulbox.KiB, "KiB"}} {
		if b >= u.unit {
			s := strconv.FormatFloat(float64(b)/float64(u.unit), 'f', 1, 64)
			return strings.TrimSuffix(s, ".0") + " " + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + " B"
}

// metadata prints pairs in the order of their names.
func metadata(m map[string]string) string {
	list := make([]string, 0, len(m))
	for k, v := range m {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}
