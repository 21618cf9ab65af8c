package templates_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/soulbox/soulbox/client"
	"github.com/soulbox/soulbox/server/servertest"
)

// testJupyterLab opens a notebook that the API has made and run in a browser, runs it
// on there, and looks at it through the API again. url and key are the server's.
func testJupyterLab(t *testing.T, c *client.Client, url, key string) {
	sb, err := c.Sandboxes.Create(t.Context(), client.CreateOptions{Template: "data-science", Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	const notebook = "shared.ipynb"
	if _, err := c.Notebooks.Create(t.Context(), sb.ID, notebook, client.NotebookOptions{}); err != nil {
		t.Fatal(err)
	}
	add := func(source string) string {
		t.Helper()
		kind := "code"
		cell, _, err := c.Notebooks.AddCell(t.Context(), sb.ID, notebook, client.CellChange{Type: &kind, Source: &source})
		if err != nil {
			t.Fatal(err)
		}
		return cell.ID
	}
	run := func(cell string) string {
		t.Helper()
		var all strings.Builder
		for e, err := range c.Notebooks.RunCell(t.Context(), sb.ID, notebook, cell, client.RunCellsOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&all, "%s %s %s\n", e.Type, e.Status, e.Output)
		}
		return all.String()
	}
	first := add("rows = 41\nprint('run by the API')")
	if got := run(first); !strings.Contains(got, "run by the API") {
		t.Fatalf("the first cell: %s", got)
	}
	add("print('answer', rows + 1)")

	b := openBrowser(t, labAddress(t, url, key, sb.ID, notebook))
	const idle = `document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status == 'idle'`
	const cells = `document.querySelectorAll('.jp-Notebook .jp-CodeCell')`
	b.until(cells+`.length == 2`, "the notebook's cells")
	b.until(`document.querySelector('.jp-Toolbar-kernelName')?.innerText.includes('Python 3') && `+idle, "an idle kernel")
	b.until(cells+`[0].innerText.includes('run by the API')`, "what the API's run printed")
	b.shot("opened")
	b.until(cells+`[1].querySelector('.cm-content').id = 'second'`, "an editor")
	b.do(chromedp.Click("#second"))
	b.press("Enter", chromedp.ModifierShift)
	b.until(cells+`[1].innerText.includes('answer 42')`, "the answer, from a variable that the API has set")
	b.until(cells+`.length == 3`, "another cell")
	b.do(chromedp.KeyEvent("rows = rows * 2"))
	b.press("Enter", chromedp.ModifierShift)
	b.until(cells+`[2].innerText.includes('[3]')`, "that the new cell was run")
	b.press("s", chromedp.ModifierCtrl)
	b.until(`!document.querySelector('.jp-mod-dirty')`, "that the notebook is saved")
	b.shot("run")

	n, err := c.Notebooks.Get(t.Context(), sb.ID, notebook)
	if err != nil {
		t.Fatal(err)
	}
	if content := string(n.Content); !strings.Contains(content, "answer 42") || !strings.Contains(content, "rows = rows * 2") {
		t.Errorf("what was done in JupyterLab is not in the notebook: %s", content)
	}
	res, err := sb.Run(t.Context(), `python -c 'import nbformat, sys
nbformat.validate(nbformat.read("`+notebook+`", nbformat.NO_CONVERT))
print("valid")' && stat -c %U `+notebook, client.RunOptions{})
	if err != nil || res.Stdout != "valid\nuser\n" {
		t.Errorf("nbformat says %q %q, %v", res.Stdout, res.Stderr, err)
	}
	last := add("print('rows', rows)")
	if got := run(last); !strings.Contains(got, "rows 82") {
		t.Errorf("a variable that was set in JupyterLab, in the API: %s", got)
	}

	b.press("Escape", 0)
	b.press("0", 0)
	b.press("0", 0)
	b.until(`document.querySelector('.jp-Dialog .jp-mod-accept')?.innerText.includes('Restart')`, "whether the kernel is to be restarted")
	b.shot("restart")
	b.press("Enter", 0)
	b.until(`!document.querySelector('.jp-Dialog') && `+idle, "another kernel")
	if got := run(last); !strings.Contains(got, "NameError") {
		t.Errorf("after a restart in JupyterLab, in the API: %s", got)
	}
	b.shot("restarted")
	if err := c.Notebooks.StopLab(t.Context(), sb.ID); err != nil {
		t.Error(err)
	}
	if err := c.Sandboxes.Kill(t.Context(), sb.ID); err != nil {
		t.Error(err)
	}
}

// labAddress runs `soulbox notebook open` until the test ends, and returns the URL
// that it prints.
func labAddress(t *testing.T, url, key, sandbox, notebook string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, servertest.Binary(t), "notebook", "open", "--no-browser", sandbox, notebook)
	cmd.Env = append(os.Environ(), "E2B_API_URL="+url, "E2B_API_KEY="+key)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	began := time.Now()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("soulbox notebook open: %q, %v", line, err)
	}
	t.Logf("JupyterLab answered after %v", time.Since(began).Round(time.Millisecond))
	return strings.TrimSpace(line)
}

// browser is Chromium without a window.
type browser struct {
	t   *testing.T
	ctx context.Context // of the browser's tab
}

// openBrowser opens a page until the test ends.
func openBrowser(t *testing.T, page string) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.WindowSize(1280, 900))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &browser{t, ctx}
	b.do(chromedp.Navigate(page))
	return b
}

func (b *browser) do(action chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if _, err := chromedp.Run(b.ctx, action); err != nil {
		b.t.Fatalf("in the browser: %v", err)
	}
}

// press presses a key, such as Enter or s.
func (b *browser) press(key string, modifiers chromedp.Modifier) {
	b.t.Helper()
	switch key {
	case "Enter":
		key = "\r"
	case "Escape":
		key = "\x1b"
	}
	b.do(chromedp.KeyEvent(key, chromedp.KeyModifiers(modifiers)))
}

// until waits until an expression is true.
func (b *browser) until(expression, what string) {
	b.t.Helper()
	is, err := chromedp.Run(b.ctx, chromedp.Poll[bool]("!!("+expression+")", chromedp.WithPollingTimeout(time.Minute), chromedp.WithPollingInterval(50*time.Millisecond)))
	if err != nil || !is {
		b.shot("missing")
		b.t.Fatalf("the browser does not show %s: %v, see %s", what, err, b.t.ArtifactDir())
	}
}

// shot keeps a picture of the page; `go test -artifacts` leaves it there.
func (b *browser) shot(name string) {
	b.t.Helper()
	picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Errorf("take a picture: %v", err)
		return
	}
	if err := os.WriteFile(filepath.Join(b.t.ArtifactDir(), name+".png"), picture, 0o600); err != nil {
		b.t.Error(err)
	}
}
