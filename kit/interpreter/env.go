package interpreter

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/soulbox/soulbox/kit/interpreter/fetch"
	"github.com/soulbox/soulbox/kit/interpreter/jupyter"
)

const (
	maxEnvs     = 4 << 20 // bytes of the default environment
	maxIdentity = 256
)

// setEnvs gives the kernel the sandbox's default environment, once, and the
// variables of one execution. The code that it returns takes the latter back.
// It is called by whoever has the turn.
func (c *codeContext) setEnvs(ctx context.Context, k *jupyter.Kernel, own map[string]string, token string) (restore string, err error) {
	dialect, ok := dialects[c.language]
	if !ok && c.spec.Language == "python" { // in an environment with a name
		dialect, ok = python, true
	}
	if !ok {
		return "", nil
	}
	if err := c.inherit(ctx, k, dialect, token); err != nil {
		return "", err
	}
	if len(own) == 0 {
		return "", nil
	}
	set, restore := dialect(own, true)
	return restore, c.quiet(ctx, k, set, true)
}

// inherit gives the kernel the default environment, unless it has it.
func (c *codeContext) inherit(ctx context.Context, k *jupyter.Kernel, d dialect, token string) error {
	identity := c.in.identity()
	if c.envsKept == k && c.envsOf == identity {
		return nil
	}
	all, err := c.in.fetchEnvs(ctx, token)
	if err != nil {
		if ctx.Err() == nil {
			c.in.options.Log.WarnContext(ctx, "default environment not known", "context", c.id, "err", err)
		}
		return ctx.Err() // code runs without it, as in a sandbox that has none
	}
	maps.DeleteFunc(all, func(name, value string) bool { return checkEnv(c.language, name, value) != nil })
	if len(all) > 0 {
		set, _ := d(all, false)
		if err := c.quiet(ctx, k, set, true); err != nil {
			return err
		}
	}
	c.envsOf, c.envsKept = identity, k
	return nil
}

// identity says which sandbox this is.
func (in *Interpreter) identity() string {
	if in.options.Identity == "" {
		return ""
	}
	f, err := os.Open(in.options.Identity)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxIdentity))
	if err != nil {
		return ""
	}
	return string(b)
}

// fetchEnvs asks the sandbox's agent for the default environment.
func (in *Interpreter) fetchEnvs(ctx context.Context, token string) (map[string]string, error) {
	if in.options.Envs == "" {
		return map[string]string{}, nil
	}
	header := http.Header{}
	if token != "" {
		header.Set(tokenHeader, token)
	}
	ctx, cancel := context.WithTimeout(ctx, envsTime)
	defer cancel()
	b, err := fetch.Get(ctx, in.options.Envs, header, maxEnvs)
	if err != nil {
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	all := map[string]string{}
	return all, json.Unmarshal(b, &all)
}

// checkEnv says why a variable cannot be set.
func checkEnv(language, name, value string) error {
	switch {
	case name == "" || strings.ContainsAny(name, "=\x00"):
		return fmt.Errorf("%q cannot be the name of an environment variable", name)
	case strings.Contains(value, "\x00"):
		return fmt.Errorf("the value of environment variable %s contains a NUL", name)
	case language == "bash" && !isIdentifier(name):
		return fmt.Errorf("%q cannot be the name of a variable in Bash", name)
	}
	return nil
}

func isIdentifier(name string) bool {
	for i, c := range []byte(name) {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// A dialect writes code that sets variables, and the code that gives them the
// values back that they had, if keep asks for it. Neither leaves a name where the
// user's are, but for Bash, which has no other place. Names and values are
// strings of JSON, which mean the same in all of these languages, but for Bash.
type dialect func(vars map[string]string, keep bool) (set, restore string)

var dialects = map[string]dialect{
	"python": python, "javascript": javascript, "typescript": javascript, "r": r, "java": java, "bash": bash,
}

// quote makes a string of s that has no newline in it.
func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return `""` // it does not fail
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// pairs writes every variable with this format, sorted.
func pairs(vars map[string]string, format string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		fmt.Fprintf(&b, format, quote(name), quote(vars[name]))
	}
	return b.String()
}

func python(vars map[string]string, keep bool) (set, restore string) {
	const stash = `s.__dict__.__setitem__("_soulbox_env", {k: e.get(k) for k in n}), `
	kept := ""
	if keep {
		kept = stash
	}
	set = `(lambda e, s, n: (` + kept + `e.update(n), None)[-1])(__import__("os").environ, __import__("sys"), {` + pairs(vars, "%s: %s, ") + `})`
	restore = `(lambda e, s: ([e.pop(k, None) if v is None else e.__setitem__(k, v) ` +
		`for k, v in s.__dict__.pop("_soulbox_env", {}).items()], None)[-1])(__import__("os").environ, __import__("sys"))`
	return set, restore
}

func javascript(vars map[string]string, keep bool) (set, restore string) {
	kept := ""
	if keep {
		kept = `globalThis[Symbol.for("soulbox.env")] = Object.keys(n).map((k) => [k, e[k]]); `
	}
	set = `((e, n) => { ` + kept + `Object.assign(e, n); })(process.env, {` + pairs(vars, "[%s]: %s, ") + `})`
	restore = `((e, s) => { for (const [k, v] of globalThis[s] ?? []) { if (v === undefined) delete e[k]; else e[k] = v; } ` +
		`delete globalThis[s]; })(process.env, Symbol.for("soulbox.env"))`
	return set, restore
}

func r(vars map[string]string, keep bool) (set, restore string) {
	kept := ""
	if keep {
		kept = `options(soulbox.env = Sys.getenv(names(n), unset = NA, names = TRUE)); `
	}
	set = `local({ n <- c(` + strings.TrimSuffix(pairs(vars, "%s = %s, "), ", ") + `); ` + kept + `do.call(Sys.setenv, as.list(n)) })`
	restore = `local({ o <- getOption("soulbox.env"); options(soulbox.env = NULL); k <- is.na(o); ` +
		`Sys.unsetenv(names(o)[k]); if (any(!k)) do.call(Sys.setenv, as.list(o[!k])) })`
	return set, restore
}

// java sets properties, as E2B does: a program cannot change its environment.
func java(vars map[string]string, keep bool) (set, restore string) {
	var s, b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		own, kept := quote(name), quote("soulbox.env."+name)
		if keep {
			fmt.Fprintf(&s, "if (System.getProperty(%s) != null) System.setProperty(%s, System.getProperty(%[1]s)); ", own, kept)
		}
		fmt.Fprintf(&s, "System.setProperty(%s, %s); ", own, quote(vars[name]))
		fmt.Fprintf(&b, "if (System.getProperty(%s) == null) System.clearProperty(%s); "+
			"else { System.setProperty(%[2]s, System.getProperty(%[1]s)); System.clearProperty(%[1]s); } ", kept, own)
	}
	return "{ " + s.String() + "}", "{ " + b.String() + "}"
}

func bash(vars map[string]string, keep bool) (set, restore string) {
	var s, b strings.Builder
	if keep {
		s.WriteString("declare -gA __soulbox_env=(); ")
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if keep {
			fmt.Fprintf(&s, "[[ -v %s ]] && __soulbox_env[%[1]s]=$%[1]s; ", name)
		}
		fmt.Fprintf(&s, "export %s=%s; ", name, bashQuote(vars[name]))
		fmt.Fprintf(&b, "if [[ -v __soulbox_env[%s] ]]; then export %[1]s=\"${__soulbox_env[%[1]s]}\"; else unset %[1]s; fi; ", name)
	}
	return s.String() + "true", b.String() + "unset __soulbox_env; true"
}

// bashQuote makes one line of any value, and nothing in it means anything.
func bashQuote(s string) string {
	var b strings.Builder
	b.WriteString("$'")
	for _, c := range []byte(s) {
		switch {
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c >= 0x7f || c == '!': // bash_kernel takes more than newlines for the end of a line
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

// lesson is what Python kernels are taught, without a name that users see. A
// kernel's socket loses messages when more than a thousand wait to be sent to
// somebody; it is the kernel that has to wait, not what it says that has to go. So
// its thread that sends waits, when fewer are there already, since a message may
// have a megabyte, and those that have something to say wait for that one. Or what
// they say would fill the sandbox's memory.
const lesson = `
path.insert(0, folder)
try:
    shell.extension_manager.load_extension("soulbox_display")
finally:
    path.remove(folder)
try:
    import threading, time, zmq
    thread = shell.kernel.iopub_thread
    schedule, events, sender, sleep = thread.schedule, thread._events, thread.thread, time.sleep
    def patient(f):
        while len(events) > 1000 and sender.is_alive() and threading.current_thread() is not sender:
            sleep(0.001)
        schedule(f)
    def limit():
        thread.socket.setsockopt(zmq.XPUB_NODROP, 1)
        thread.socket.setsockopt(zmq.SNDHWM, 64)
    schedule(limit)
    thread.schedule = patient
except Exception:
    pass
`

// teach runs what a new kernel must know.
func (in *Interpreter) teach(c *codeContext, k *jupyter.Kernel) error {
	if c.spec.Language != "python" || in.options.Python == "" {
		return nil
	}
	code := `exec(` + quote(lesson) + `, {"path": __import__("sys").path, "shell": get_ipython(), "folder": ` + quote(in.options.Python) + `})`
	return c.quiet(in.life, k, code, true)
}

// arguments returns what a kernel is started with beside what its spec says:
// Python's prints no colours, shows lists whole, and keeps no history on disk.
func arguments(spec *jupyter.Spec) []string {
	if spec.Language != "python" || !slices.Contains(spec.Argv, "ipykernel_launcher") {
		return nil
	}
	return []string{
		"--InteractiveShell.colors=NoColor", "--PlainTextFormatter.max_seq_length=0", "--HistoryManager.enabled=False",
	}
}

// rehearsal returns code that uses what most code uses.
func rehearsal(language string) string {
	switch language {
	case "python":
		return "print(end='')"
	case "javascript", "typescript":
		return "void 0"
	}
	return ""
}
