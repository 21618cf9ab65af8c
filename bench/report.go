package bench

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/soulbox/soulbox"
)

// A Report is what a run found.
type Report struct {
	At       time.Time `json:"at"`
	Server   string    `json:"server"` // its URL
	Template string    `json:"template"`
	Machine  Machine   `json:"machine"`
	Versions Versions  `json:"versions"`
	Rows     []*Row    `json:"rows"`
}

// A Machine is where the client ran. The server may have run elsewhere.
type Machine struct {
	CPU    string        `json:"cpu"`
	Cores  int           `json:"cores"`
	Kernel string        `json:"kernel"`
	Memory soulbox.Bytes `json:"memory_bytes"`
}

// Versions are those of the programs that took part.
type Versions struct {
	Client string `json:"client"`
	Server string `json:"server"`
	Go     string `json:"go"` // that built the client
}

func goVersion() string { return runtime.Version() }

// ThisMachine describes the machine where the program runs.
func ThisMachine() Machine {
	m := Machine{CPU: "unknown processor", Cores: runtime.NumCPU(), Kernel: "unknown"}
	if model := fieldOf("/proc/cpuinfo", "model name"); model != "" {
		m.CPU = model
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = "Linux " + strings.TrimSpace(string(b))
	}
	if kib, err := strconv.ParseInt(strings.TrimSuffix(fieldOf("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m.Memory = soulbox.Bytes(kib) * soulbox.KiB
	}
	return m
}

// String describes m in a line.
func (m Machine) String() string {
	return fmt.Sprintf("%d cores, %s, %.1f GiB of memory, %s", m.Cores, m.CPU, float64(m.Memory)/float64(soulbox.GiB), m.Kernel)
}

// fieldOf returns the value of the first line "name: value" of a file.
func fieldOf(path, name string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if field, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(field) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Head is what there is to say before the table, as pairs of a name and a value.
func (r *Report) Head() [][2]string {
	return [][2]string{
		{"Machine", r.Machine.String()},
		{"Versions", fmt.Sprintf("client %s (%s), server %s", r.Versions.Client, r.Versions.Go, r.Versions.Server)},
		{"Server", r.Server},
		{"Template", r.Template},
		{"Measured", r.At.UTC().Format(time.RFC3339) + ", at the client; warm-up is left out"},
	}
}

// Columns are the heads of the cells of [Row.Cells].
func Columns() []string {
	return []string{"row", "n", "p50", "p95", "p99", "max", "unit", "what"}
}

// Cells are what a table shows of a row; without samples there are no figures.
func (r *Row) Cells() []string {
	figure := func(f float64) string {
		if r.N == 0 {
			return "–"
		}
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return []string{r.Name, strconv.Itoa(r.N), figure(r.P50), figure(r.P95), figure(r.P99), figure(r.Max), r.Unit, r.What}
}

// Remark says what the figures do not; it may be empty.
func (r *Row) Remark() string {
	var all []string
	if r.Failed > 0 {
		all = append(all, fmt.Sprintf("%d failed", r.Failed))
	}
	if r.Note != "" {
		all = append(all, r.Note)
	}
	if r.Error != "" {
		all = append(all, "could not be measured: "+r.Error)
	}
	return strings.Join(all, "; ")
}

// Markdown writes the report as docs/benchmarks.md has it.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	for _, field := range r.Head() {
		fmt.Fprintf(&b, "%s: %s  \n", field[0], inCell(field[1]))
	}
	columns := append(Columns(), "remark")
	fmt.Fprintf(&b, "\n| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, row := range r.Rows {
		cells := append(row.Cells(), row.Remark())
		for i := range cells {
			cells[i] = inCell(cells[i])
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// inCell makes s fit for a cell of a table.
func inCell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "\r", " ").Replace(s)
}
