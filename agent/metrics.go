package agent

import (
	"io"
	"math"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what the sandbox uses, in the names of E2B.
type usage struct {
	Timestamp   int64   `json:"ts"` // Unix seconds
	CPUCount    int     `json:"cpu_count"`
	CPUUsed     float64 `json:"cpu_used_pct"` // since the last call, of all CPUs together
	MemTotalMiB uint64  `json:"mem_total_mib"`
	MemUsedMiB  uint64  `json:"mem_used_mib"`
	MemTotal    uint64  `json:"mem_total"` // bytes, as all below
	MemUsed     uint64  `json:"mem_used"`
	MemCache    uint64  `json:"mem_cache"`
	DiskUsed    uint64  `json:"disk_used"`
	DiskTotal   uint64  `json:"disk_total"`
}

// metrics serves GET /metrics.
func (a *Agent) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	mem, err := readProc("/proc/meminfo")
	if err != nil {
		writeError(w, http.StatusInternalServerError, "read memory use: "+err.Error())
		return
	}
	var disk unix.Statfs_t
	if err := unix.Statfs("/", &disk); err != nil {
		writeError(w, http.StatusInternalServerError, "read disk use: "+err.Error())
		return
	}
	u := usage{Timestamp: time.Now().Unix(), CPUCount: runtime.NumCPU(), CPUUsed: a.load.percent()}
	sizes := parseMem(mem)
	u.MemTotal, u.MemCache = sizes["MemTotal"], sizes["Cached"]
	u.MemUsed = u.MemTotal - min(u.MemTotal, sizes["MemAvailable"])
	u.MemTotalMiB, u.MemUsedMiB = u.MemTotal>>20, u.MemUsed>>20
	block := uint64(disk.Bsize)
	u.DiskTotal = disk.Blocks * block
	u.DiskUsed = u.DiskTotal - min(u.DiskTotal, disk.Bavail*block)
	writeJSON(w, http.StatusOK, &u)
}

// readProc reads a small file of the kernel's.
func readProc(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	const most = 64 << 10
	data, err := io.ReadAll(io.LimitReader(f, most))
	return string(data), err
}

// parseMem reads /proc/meminfo into bytes.
func parseMem(text string) map[string]uint64 {
	sizes := map[string]uint64{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseUint(fields[0], 10, 53); err == nil {
			sizes[name] = n << 10
		}
	}
	return sizes
}

// cpuMeter measures CPU use between two calls.
type cpuMeter struct {
	mu         sync.Mutex
	busy, idle float64 // +checklocks:mu
}

// percent returns the share of time that all CPUs were busy since the last
// call, or since the sandbox started.
func (m *cpuMeter) percent() float64 {
	text, err := readProc("/proc/stat")
	if err != nil {
		return 0
	}
	busy, idle := parseStat(text)
	m.mu.Lock()
	defer m.mu.Unlock()
	worked, rested := busy-m.busy, idle-m.idle
	m.busy, m.idle = busy, idle
	if worked <= 0 || rested < 0 {
		return 0
	}
	const hundredths = 100
	return math.Round(worked/(worked+rested)*100*hundredths) / hundredths
}

// parseStat reads the sums of all CPUs from /proc/stat.
func parseStat(text string) (busy, idle float64) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) == 0 || fields[0] != "cpu" {
		return 0, 0
	}
	for i, field := range fields[1:] {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil || n < 0 {
			return 0, 0
		}
		switch i {
		case 3, 4: // idle, iowait
			idle += n
		case 8, 9: // guest times are part of user times
		default:
			busy += n
		}
	}
	return busy, idle
}
