// The code interpreter package, in sandboxes of the template that it asks for.

import assert from 'node:assert/strict'
import { create, e2b, eventually, feature, mark, rejection, Sandbox, sleep } from '../suite.mjs'

const template = 'code-interpreter-v1'
const start = (opts) => create({ timeoutMs: 300_000, ...opts }, template)

let one
const sandbox = () => (one ??= start())
const run = async (code, opts) => (await sandbox()).runCode(code, opts)
const good = async (code, opts) => {
  const execution = await run(code, opts)
  assert.equal(execution.error, undefined, JSON.stringify(execution.error))
  return execution
}

feature('interpreter/template', async () => {
  const s = await Sandbox.create({ timeoutMs: 60_000, metadata: mark })
  try {
    assert.equal((await s.runCode('40 + 2')).text, '42')
  } finally {
    await s.kill()
  }
}, { timeout: 60_000 })

feature('interpreter/python', async () => {
  const first = await good('x = 1\nprint("out")\nimport sys; print("err", file=sys.stderr)\nx + 1')
  assert.equal(first.text, '2')
  assert.deepEqual(first.logs, { stdout: ['out\n'], stderr: ['err\n'] })
  const second = await good('x += 1; x')
  assert.equal(second.text, '2')
  assert.equal(second.executionCount, first.executionCount + 1)
  assert.deepEqual((await good('y = 1')).results, [])
  assert.equal((await good('!pwd')).logs.stdout.join('').trim(), '/home/user')
  assert.equal((await good("'quoted'")).text, 'quoted')
})

const languages = {
  javascript: {
    names: ['javascript', 'js'],
    state: ['const x = [1, 2, 3]; globalThis.y = x.length', 'y * 14', '42'],
    print: ['console.log("out"); console.error("err")', 'out\n', 'err'],
    error: ['throw new TypeError("wrong")', /TypeError/, /wrong/],
    more: [['await Promise.resolve("later")', 'later']],
  },
  typescript: {
    names: ['typescript', 'ts'],
    state: ['interface P { n: number }\nconst p: P = { n: 21 }', 'p.n * 2', '42'],
    print: ['const m: string = "out"; console.log(m); console.error("err")', 'out\n', 'err'],
    error: ['throw new RangeError("wrong")', /RangeError/, /wrong/],
    more: [],
  },
  r: {
    names: ['r'],
    state: ['x <- c(1, 2, 3)', 'sum(x) * 7', '[1] 42'],
    print: ['cat("out\\n"); message("err")', 'out\n', 'err'],
    error: ['stop("wrong")', /./, /wrong/],
    more: [],
  },
  java: {
    names: ['java'],
    state: ['int x = 21;', 'x * 2', '42'],
    print: ['System.out.println("out"); System.err.println("err");', 'out\n', 'err'],
    error: ['throw new IllegalStateException("wrong");', /Exception/, /wrong/],
    more: [['String.join("-", java.util.List.of("a", "b"))', 'a-b']],
  },
}

for (const [name, l] of Object.entries(languages)) {
  feature(`interpreter/${name}`, async () => {
    await good(l.state[0], { language: l.names[0] })
    for (const language of l.names) {
      assert.equal((await good(l.state[1], { language })).results[0].text.trim(), l.state[2], language)
    }
    const { logs } = await good(l.print[0], { language: name })
    assert.equal(logs.stdout.join(''), l.print[1])
    assert.equal(logs.stderr.join('').trim(), l.print[2]) // R ends a message twice
    const { error } = await run(l.error[0], { language: name })
    assert.match(error.name, l.error[1])
    assert.match(`${error.value}\n${error.traceback}`, l.error[2])
    for (const [code, want] of l.more) assert.equal((await good(code, { language: name })).text, want)
  }, { timeout: 90_000 })
}

feature('interpreter/bash', async () => {
  await good('x=21; cd /tmp', { language: 'bash' })
  const { logs } = await good('echo $((x * 2)) in $PWD', { language: 'bash' })
  assert.equal(logs.stdout.join(''), '42 in /tmp\n')
}, { timeout: 60_000 })

feature('interpreter/contexts', async () => {
  const s = await sandbox()
  const context = await s.createCodeContext({ cwd: '/tmp', language: 'python' })
  assert.deepEqual([context.cwd, context.language], ['/tmp', 'python'])
  const in_ = async (code) => (await s.runCode(code, { context })).text
  assert.equal(await in_('import os; here = 1; os.getcwd()'), '/tmp')
  const listed = await s.listCodeContexts()
  assert.ok(listed.some((c) => c.id === context.id && c.cwd === '/tmp'), JSON.stringify(listed))
  assert.ok(['python', 'javascript'].every((l) => listed.some((c) => c.language === l)), JSON.stringify(listed))
  await s.restartCodeContext(context)
  assert.equal((await s.runCode('here', { context })).error.name, 'NameError')
  assert.equal(await in_('import os; os.getcwd()'), '/tmp')
  await s.removeCodeContext(context.id)
  assert.ok(!(await s.listCodeContexts()).some((c) => c.id === context.id))
  await assert.rejects(s.runCode('1', { context }), e2b.NotFoundError)
  await assert.rejects(s.restartCodeContext('no-such-context'), e2b.NotFoundError)
  await assert.rejects(s.removeCodeContext('no-such-context'), e2b.NotFoundError)
}, { timeout: 60_000 })

feature('interpreter/independence', async () => {
  const s = await sandbox()
  await good('mine = 1')
  const [a, b] = await Promise.all([s.createCodeContext(), s.createCodeContext()])
  assert.match((await s.runCode('mine', { context: a })).error.value, /name 'mine' is not defined/)
  const ran = await Promise.all([a, b].map((context, i) => s.runCode(`import time; mine = ${i}; time.sleep(0.5); mine`, { context })))
  assert.deepEqual(ran.map((e) => e.text), ['0', '1'])
  await assert.rejects(s.runCode('1', { context: a, language: 'python' }))
  await assert.rejects(s.runCode('1', { language: 'cobol' }))
  await Promise.all([a, b].map((c) => s.removeCodeContext(c)))
}, { timeout: 60_000 })

feature('interpreter/callbacks', async () => {
  const seen = { stdout: [], stderr: [], results: [], errors: [] }
  const began = Date.now()
  const execution = await run(
    'import sys, time\nfrom IPython.display import display\n' +
      'print("first", flush=True); display("shown"); time.sleep(1); print("second", file=sys.stderr)\n1 / 0',
    {
      onStdout: (o) => seen.stdout.push([o.line, o.error, Date.now() - began]),
      onStderr: (o) => seen.stderr.push([o.line, o.error]),
      onResult: (r) => seen.results.push(r.text),
      onError: (e) => seen.errors.push(e.name),
    },
  )
  assert.deepEqual(seen.stdout.map(([line, error]) => [line, error]), [['first\n', false]])
  assert.ok(seen.stdout[0][2] < 900, `the first line came after ${seen.stdout[0][2]} ms`)
  assert.deepEqual(seen.stderr, [['second\n', true]])
  assert.deepEqual(seen.results, ['shown'])
  assert.deepEqual(seen.errors, ['ZeroDivisionError'])
  assert.equal(execution.error.name, 'ZeroDivisionError')
})

feature('interpreter/results', async () => {
  const { results } = await good(`
from IPython.display import display, HTML, Markdown, SVG, Latex, JSON, Javascript
display(HTML("<b>b</b>"))
display(Markdown("# m"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg'/>"))
display(Latex("$x^2$"))
display(JSON({"a": [1, None]}))
display(Javascript("1"))
class Own:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": "own", "application/x-own": "more"}
display(Own())
class Pdf:
    def _repr_pdf_(self): return b"%PDF-"
display(Pdf())
"last"
`)
  assert.equal(results[0].html, '<b>b</b>')
  assert.equal(results[1].markdown, '# m')
  assert.match(results[2].svg, /^<svg/)
  assert.equal(results[3].latex, '$x^2$')
  assert.deepEqual(results[4].json, { a: [1, null] })
  assert.equal(results[5].javascript, '1')
  assert.equal(results[6].text, 'own') // the package shows no types that it does not know
  assert.equal(Buffer.from(results[7].pdf, 'base64').toString(), '%PDF-')
  assert.equal(results[8].text, 'last')
  assert.deepEqual(results.map((r) => r.isMainResult), [...Array(8).fill(false), true])
  assert.deepEqual([...results[0].formats()], ['html'])
})

feature('interpreter/data', async () => {
  const { results } = await good('import pandas as pd\npd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.to_datetime(["2024-01-02", "2024-01-03"])})')
  assert.deepEqual(results[0].data.a, [1, 2])
  assert.deepEqual(results[0].data.b, ['x', null])
  assert.match(results[0].data.c[0], /^2024-01-02T00:00:00/)
  assert.match(results[0].html, /<table/)
  assert.match(results[0].text, /a +b/)
}, { timeout: 60_000 })

const plot = async (code) => (await good(`import matplotlib.pyplot as plt, datetime\n${code}\nplt.show()`)).results

feature('interpreter/charts', async () => {
  const [line] = await plot('plt.plot([datetime.date(2024, 1, d) for d in (1, 2, 3)], [1, 4, 9], label="squares"); plt.yscale("log"); plt.title("T"); plt.xlabel("Time (s)"); plt.ylabel("y")')
  assert.equal(Buffer.from(line.png, 'base64').subarray(1, 4).toString(), 'PNG')
  const { type, title, x_label, x_unit, y_label, x_scale, y_scale, elements } = line.chart
  assert.deepEqual({ type, title, x_label, x_unit, y_label, x_scale, y_scale },
    { type: 'line', title: 'T', x_label: 'Time (s)', x_unit: 's', y_label: 'y', x_scale: 'datetime', y_scale: 'log' })
  assert.equal(elements[0].label, 'squares')
  assert.deepEqual(elements[0].points.map(([x, y]) => [String(x).slice(0, 10), y]), [['2024-01-01', 1], ['2024-01-02', 4], ['2024-01-03', 9]])
  const [bar] = await plot('plt.bar(["a", "b"], [1, 2], label="g")')
  assert.deepEqual([bar.chart.type, bar.chart.elements.map((e) => [e.label, e.group, e.value])], ['bar', [['a', 'g', 1], ['b', 'g', 2]]])
  const [scatter] = await plot('plt.scatter([1, 2], [3, 4], label="s")')
  assert.deepEqual([scatter.chart.type, scatter.chart.elements[0].points], ['scatter', [[1, 3], [2, 4]]])
  const [pie] = await plot('plt.pie([3, 1], labels=["a", "b"])')
  assert.deepEqual([pie.chart.type, pie.chart.elements.map((e) => [e.label, Math.round(e.angle)])], ['pie', [['a', 270], ['b', 90]]])
  const [box] = await plot('plt.boxplot([[1, 2, 3, 4, 100]], labels=["a"])')
  assert.deepEqual([box.chart.type, box.chart.elements[0].median, box.chart.elements[0].outliers], ['box_and_whisker', 3, [100]])
  const [both] = await plot('f, a = plt.subplots(1, 2); f.suptitle("two"); a[0].plot([1, 2]); a[1].bar(["x"], [1])')
  assert.deepEqual([both.chart.type, both.chart.title, both.chart.elements.map((c) => c.type)], ['superchart', 'two', ['line', 'bar']])
}, { timeout: 90_000 })

feature('interpreter/images', async () => {
  const { results } = await good('from PIL import Image\nImage.new("RGB", (2, 3), "red")')
  const png = Buffer.from(results[0].png, 'base64')
  assert.deepEqual([png.readUInt32BE(16), png.readUInt32BE(20)], [2, 3])
})

feature('interpreter/errors', async () => {
  const { error, results } = await run('kept = 1\ndef f():\n    raise ValueError("why ✓")\nf()')
  assert.deepEqual([error.name, error.value, results], ['ValueError', 'why ✓', []])
  assert.match(error.traceback, /in f\(\)[^]*ValueError: why ✓/)
  assert.doesNotMatch(error.traceback, /\x1b\[/)
  assert.equal((await run('if')).error.name, 'SyntaxError')
  assert.equal((await good('kept')).text, '1')
})

feature('interpreter/timeout', async () => {
  await good('before = 1')
  await assert.rejects(run('import time; time.sleep(300)', { timeoutMs: 1_000 }), e2b.TimeoutError)
  assert.equal((await run('before', { timeoutMs: 15_000 })).text, '1')
}, { timeout: 60_000 })

feature('interpreter/envs', async () => {
  const s = await start({ envs: { WHO: 'all' } })
  const ask = {
    python: (n) => `import os; print(os.environ.get("${n}"))`,
    javascript: (n) => `console.log(process.env.${n})`,
    r: (n) => `cat(Sys.getenv("${n}"))`,
    java: (n) => `System.out.println(System.getProperty("${n}"));`,
    bash: (n) => `echo $${n}`,
  }
  for (const [language, code] of Object.entries(ask)) {
    const said = async (envs) => (await s.runCode(code('WHO'), { language, envs })).logs.stdout.join('').trim()
    assert.equal(await said(), 'all', language)
    assert.equal(await said({ WHO: 'one' }), 'one', language)
    assert.equal(await said(), 'all', language)
    const gone = (await s.runCode(code('ONCE'), { language, envs: { ONCE: 'here' } })).logs.stdout.join('').trim()
    assert.equal(gone, 'here', language)
    assert.notEqual((await s.runCode(code('ONCE'), { language })).logs.stdout.join('').trim(), 'here', language)
  }
  await s.kill()
}, { timeout: 120_000 })

feature('interpreter/long-output', async () => {
  const lines = 50_000
  const { logs } = await good(`for i in range(${lines}): print(i, "ä" * 40)`)
  const all = logs.stdout.join('').trimEnd().split('\n')
  assert.equal(all.length, lines)
  const wrong = all.findIndex((l, i) => l !== `${i} ${'ä'.repeat(40)}`)
  assert.equal(wrong, -1, `line ${wrong} is ${JSON.stringify(all[wrong])}`)
}, { timeout: 60_000 })

feature('interpreter/queue', async () => {
  await good('order = []')
  const both = await Promise.all([1, 2, 3].map((i) => run(`import time; time.sleep(0.3); order.append(${i}); len(order)`)))
  assert.deepEqual(both.map((e) => e.text).sort(), ['1', '2', '3'])
})

feature('interpreter/crash', async () => {
  const s = await sandbox()
  const context = await s.createCodeContext()
  const execution = await s.runCode('import os; os._exit(3)', { context })
  assert.ok(execution.error, 'the end of the kernel is no error')
  const after = await s.runCode('40 + 2', { context })
  assert.equal(after.text, '42')
  await s.removeCodeContext(context)
}, { timeout: 60_000 })

feature('interpreter/killed', async () => {
  const s = await start()
  const running = rejection(s.runCode('import time; time.sleep(300)', { timeoutMs: 300_000 }))
  await sleep(1_000)
  await s.kill()
  const err = await running
  assert.ok(err instanceof e2b.TimeoutError, `${err.name}: ${err.message}`)
}, { timeout: 60_000 })

feature('interpreter/pause', async () => {
  const s = await start()
  await s.runCode('import pandas as pd; df = pd.DataFrame({"a": range(1000)})')
  await s.runCode('let kept = [1, 2]', { language: 'javascript' })
  await s.pause()
  await eventually(async () => (await Sandbox.getInfo(s.sandboxId)).state === 'paused', 'the pause')
  const again = await Sandbox.connect(s.sandboxId)
  assert.equal((await again.runCode('int(df.a.sum())')).text, '499500')
  assert.equal((await again.runCode('kept.length', { language: 'javascript' })).text, '2')
  await again.kill()
}, { timeout: 60_000 })

feature('interpreter/private', async () => {
  const s = await start({ secure: true, network: { allowPublicTraffic: false } })
  assert.ok(s.trafficAccessToken, 'no token')
  assert.equal((await s.runCode('x = 40')).error, undefined)
  assert.equal((await s.runCode('x + 2')).text, '42')
  const context = await s.createCodeContext()
  assert.ok((await s.listCodeContexts()).some((c) => c.id === context.id))
  await s.removeCodeContext(context)
  const bare = await fetch(`${process.env.E2B_SANDBOX_URL}/contexts`, { headers: { 'E2b-Sandbox-Id': s.sandboxId, 'E2b-Sandbox-Port': '49999' } })
  assert.deepEqual([bare.status, (await bare.json()).code], [403, 403])
}, { timeout: 60_000 })

feature('interpreter/fork', async () => {
  const s = await start()
  await s.runCode('n = [0]')
  const forks = await s.fork({ count: 2 })
  try {
    for (const [i, f] of forks.entries()) {
      const there = await Sandbox.connect(f.sandboxId)
      assert.equal((await there.runCode(`n.append(${i + 1}); n`)).text, `[0, ${i + 1}]`)
    }
    assert.equal((await s.runCode('n')).text, '[0]')
  } finally {
    await Promise.all(forks.map((f) => f.kill()))
  }
}, { timeout: 60_000 })
