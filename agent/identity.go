package agent

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
)

// identity is what a sandbox has last been told about itself.
type identity struct {
	sandbox, template, hostname string
	nameservers                 string
	marked                      bool // the files under /run/e2b are written
}

// identifyLocked writes what has changed of the sandbox's identity to where
// programs look for it.
//
// +checklocks:a.initMu
func (a *Agent) identifyLocked(req *initRequest) {
	if !a.self.marked {
		a.accounts.SetSystem("E2B_EVENTS_ADDRESS", eventsAddress)
		a.note("make run/e2b", os.MkdirAll(a.options.Root+"/run/e2b", 0o755)) //nolint:gosec // every program may read these
		a.mark("E2B_SANDBOX", "true")
		a.mark("E2B_EVENTS_ADDRESS", eventsAddress)
		a.self.marked = true
	}
	if req.SandboxID != "" && req.SandboxID != a.self.sandbox {
		a.self.sandbox = req.SandboxID
		a.accounts.SetSystem("E2B_SANDBOX_ID", req.SandboxID)
		a.mark("E2B_SANDBOX_ID", req.SandboxID)
	}
	if req.TemplateID != "" && req.TemplateID != a.self.template {
		a.self.template = req.TemplateID
		a.accounts.SetSystem("E2B_TEMPLATE_ID", req.TemplateID)
		a.mark("E2B_TEMPLATE_ID", req.TemplateID)
	}
	if req.Hostname != "" && req.Hostname != a.self.hostname {
		a.self.hostname = req.Hostname
		if a.options.SetHostname != nil {
			a.note("set the host name", a.options.SetHostname(req.Hostname))
		}
		a.note("write etc/hostname", a.write("/etc/hostname", []byte(req.Hostname+"\n")))
		a.note("write etc/hosts", a.nameHost(req.Hostname))
	}
	if servers := strings.Join(req.Nameservers, "\nnameserver "); servers != "" && servers != a.self.nameservers {
		a.self.nameservers = servers
		a.note("write etc/resolv.conf", a.write("/etc/resolv.conf", []byte("nameserver "+servers+"\n")))
	}
}

// mark writes one of the files by which programs know that they run in a
// sandbox.
func (a *Agent) mark(name, value string) {
	path := "/run/e2b/." + name
	err := a.write(path, []byte(value))
	if err == nil {
		err = os.Chmod(a.options.Root+path, 0o444) //nolint:gosec // every program may read these
	}
	a.note("write "+path[1:], err)
}

// write replaces a file's content in place, since it may be a mount. A link
// that leads nowhere, as images leave them for programs that do not run here,
// gives way to a file.
func (a *Agent) write(path string, content []byte) error {
	const mode = 0o644
	path = a.options.Root + path
	err := os.WriteFile(path, content, mode)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if fi, lerr := os.Lstat(path); lerr != nil || fi.Mode()&fs.ModeSymlink == 0 {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.WriteFile(path, content, mode)
}

// nameHost gives the sandbox's own name its line in /etc/hosts, without which
// sudo would ask the name servers for it.
func (a *Agent) nameHost(name string) error {
	const own = "127.0.1.1"
	old, err := os.ReadFile(a.options.Root + "/etc/hosts")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		old = []byte("127.0.0.1\tlocalhost\n::1\tlocalhost\n")
	case err != nil:
		return err
	}
	var out bytes.Buffer
	for line := range bytes.Lines(old) {
		if fields := bytes.Fields(line); len(fields) > 0 && string(fields[0]) == own {
			continue
		}
		out.Write(line)
	}
	if b := out.Bytes(); len(b) > 0 && b[len(b)-1] != '\n' {
		out.WriteByte('\n')
	}
	out.WriteString(own + "\t" + name + "\n")
	return a.write("/etc/hosts", out.Bytes())
}

// mix stirs a seed into the kernel's randomness: copies of one snapshot must
// not go on with the same.
func (a *Agent) mix(seed []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(seed)
	return err
}
