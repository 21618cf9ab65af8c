// Commands and terminals.

import assert from 'node:assert/strict'
import { create, e2b, eventually, feature, rejection, sandbox, Sandbox, sleep } from './suite.mjs'

const run = async (...args) => (await sandbox()).commands.run(...args)

feature('commands/foreground', async () => {
  const { stdout, stderr, exitCode } = await run('echo out; echo err >&2')
  assert.deepEqual({ stdout, stderr, exitCode }, { stdout: 'out\n', stderr: 'err\n', exitCode: 0 })
})

feature('commands/exit-code', async () => {
  const err = await rejection(run('echo so far; echo why >&2; exit 42'))
  assert.ok(err instanceof e2b.CommandExitError, err)
  assert.deepEqual([err.exitCode, err.stdout, err.stderr], [42, 'so far\n', 'why\n'])
  const missing = await rejection(run('no-such-program'))
  assert.equal(missing.exitCode, 127)
})

feature('commands/background', async () => {
  const start = Date.now()
  const handle = await run('sleep 1; echo done', { background: true })
  assert.ok(Date.now() - start < 900, 'background waited for the end')
  assert.ok(handle.pid > 0)
  const result = await handle.wait()
  assert.deepEqual([result.exitCode, result.stdout], [0, 'done\n'])
})

feature('commands/streaming', async () => {
  const seen = []
  const start = Date.now()
  await run('for i in 1 2 3; do echo $i; echo e$i >&2; sleep 0.4; done', {
    onStdout: (s) => seen.push([s, Date.now() - start]),
    onStderr: (s) => seen.push([s, Date.now() - start]),
  })
  const total = Date.now() - start
  assert.equal(seen.filter(([s]) => !s.startsWith('e')).map(([s]) => s).join(''), '1\n2\n3\n')
  assert.equal(seen.filter(([s]) => s.startsWith('e')).map(([s]) => s).join(''), 'e1\ne2\ne3\n')
  assert.ok(total - seen[0][1] > 700, `first output ${seen[0][1]} ms after the start, end at ${total} ms`)
})

feature('commands/stdin', async () => {
  const s = await sandbox()
  const handle = await run('cat; echo end', { background: true, stdin: true })
  await s.commands.sendStdin(handle.pid, 'one\n')
  await s.commands.sendStdin(handle.pid, 'zwei ✓\n')
  await eventually(() => handle.stdout === 'one\nzwei ✓\n', 'the echo')
  await s.commands.closeStdin(handle.pid)
  assert.equal((await handle.wait()).stdout, 'one\nzwei ✓\nend\n')

  const closed = await run('cat; echo nothing', { timeoutMs: 5_000 })
  assert.equal(closed.stdout, 'nothing\n')
})

feature('commands/kill', async () => {
  const s = await sandbox()
  const one = await run('sleep 60', { background: true })
  assert.equal(await one.kill(), true)
  const err = await rejection(one.wait())
  assert.ok(err instanceof e2b.CommandExitError, err)
  assert.notEqual(err.exitCode, 0)
  const two = await run('sleep 60', { background: true })
  two.wait().catch(() => {})
  assert.equal(await s.commands.kill(two.pid), true)
  assert.equal(await s.commands.kill(999_999), false)
})

feature('commands/list', async () => {
  const s = await sandbox()
  const handle = await run('sleep 61', { background: true, envs: { WHO: 'me' }, cwd: '/tmp' })
  handle.wait().catch(() => {})
  const found = (await s.commands.list()).find((p) => p.pid === handle.pid)
  assert.match(found.cmd, /bash$/)
  assert.ok(found.args.includes('sleep 61'))
  assert.deepEqual([found.envs.WHO, found.cwd], ['me', '/tmp'])
  await handle.kill()
  await eventually(async () => !(await s.commands.list()).some((p) => p.pid === handle.pid), 'gone from the list')
})

feature('commands/connect', async () => {
  const s = await sandbox()
  const handle = await run('for i in $(seq 30); do echo tick; sleep 0.1; done; exit 3', { background: true })
  handle.wait().catch(() => {})
  const other = await Sandbox.connect(s.sandboxId)
  let heard = ''
  const again = await other.commands.connect(handle.pid, { onStdout: (s) => (heard += s) })
  assert.equal(again.pid, handle.pid)
  const err = await rejection(again.wait())
  assert.equal(err.exitCode, 3)
  assert.match(heard, /^(tick\n)+$/)
  await assert.rejects(s.commands.connect(999_999), e2b.NotFoundError)
})

feature('commands/disconnect', async () => {
  const s = await sandbox()
  const handle = await run('sleep 1; echo survived > /tmp/survived', { background: true })
  await handle.disconnect()
  await eventually(() => s.files.exists('/tmp/survived'), 'the file of the command')
})

feature('commands/timeout', async () => {
  const s = await sandbox()
  const start = Date.now()
  const err = await rejection(run('sleep 62', { timeoutMs: 1_000 }))
  assert.ok(err instanceof e2b.TimeoutError, err)
  assert.ok(Date.now() - start < 4_000)
  await eventually(async () => !(await s.commands.list()).some((p) => p.args.includes('sleep 62')), 'the end of the command')
  assert.equal((await run('sleep 1; echo unlimited', { timeoutMs: 0 })).stdout, 'unlimited\n')
})

feature('commands/user', async () => {
  assert.equal((await run('whoami; pwd; echo $HOME')).stdout, 'user\n/home/user\n/home/user\n')
  assert.equal((await run('whoami; pwd; echo $HOME', { user: 'root' })).stdout, 'root\n/root\n/root\n')
  assert.equal((await run('sudo whoami')).stdout, 'root\n')
  await assert.rejects(run('true', { user: 'ghost' }), e2b.AuthenticationError)
})

feature('commands/envs', async () => {
  const { stdout } = await run('echo "$GREETING|$E2B_SANDBOX"', { envs: { GREETING: 'hi there' } })
  assert.equal(stdout, 'hi there|true\n')
  assert.equal((await run('echo "[$GREETING]"')).stdout, '[]\n')
})

feature('commands/cwd', async () => {
  assert.equal((await run('pwd', { cwd: '/usr/share' })).stdout, '/usr/share\n')
  await assert.rejects(run('pwd', { cwd: '/no/such/place' }), e2b.InvalidArgumentError)
})

feature('commands/unicode', async () => {
  const whole = 'żółw 🐢 漢字\n'.repeat(3_000)
  await (await sandbox()).files.write('/tmp/unicode', whole)
  assert.equal((await run('cat /tmp/unicode')).stdout, whole)
})

feature('commands/large-output', async () => {
  const { stdout } = await run('seq 1 1200000')
  assert.equal(stdout.length, 8_488_896)
  assert.ok(stdout.endsWith('\n1199999\n1200000\n'))
})

feature('commands/parallel', async () => {
  const out = await Promise.all(Array.from({ length: 20 }, (_, n) => run(`sleep 0.2; echo ${n}`)))
  assert.deepEqual(out.map((r) => r.stdout), Array.from({ length: 20 }, (_, n) => `${n}\n`))
})

feature('commands/killed-sandbox', async () => {
  const s = await create()
  const running = rejection(s.commands.run('sleep 60'))
  await sleep(500)
  await s.kill()
  const err = await running
  assert.ok(err instanceof e2b.TimeoutError, err)
})

const size = { cols: 80, rows: 24 }
const bytes = (s) => new TextEncoder().encode(s)

async function terminal(opts = {}) {
  const s = await sandbox()
  const term = { screen: '' }
  const onData = (data) => (term.screen += new TextDecoder().decode(data))
  term.handle = await s.pty.create({ ...size, onData, ...opts })
  term.handle.wait().catch(() => {})
  term.type = (line) => s.pty.sendInput(term.handle.pid, bytes(line))
  term.shows = (what) => eventually(() => what.test(term.screen), () => `${what} in ${JSON.stringify(term.screen)}`)
  await term.shows(/\$ $/) // a shell drops what is typed before its prompt
  return term
}

feature('pty/create', async () => {
  const term = await terminal({ cwd: '/tmp', envs: { MOOD: 'good' }, cols: 100, rows: 30 })
  await term.type('echo "$MOOD-$TERM-$(pwd)-$(tput cols)x$(tput lines)-$(tty)"\n')
  await term.shows(/good-xterm-256color-\/tmp-100x30-\/dev\/pts\/\d+/)
  await term.handle.kill()
})

feature('pty/input', async () => {
  const s = await sandbox()
  const term = await terminal()
  await term.type('read -p "name? " line\n')
  await term.shows(/\rname\? /)
  await term.type('grün\n')
  await term.type('echo "<$line>"; exit 7\n')
  await term.shows(/<grün>/)
  const err = await rejection(term.handle.wait())
  assert.equal(err.exitCode, 7)
  await rejection(s.pty.sendInput(term.handle.pid, bytes('x')))
})

feature('pty/resize', async () => {
  const s = await sandbox()
  const term = await terminal()
  await s.pty.resize(term.handle.pid, { cols: 132, rows: 50 })
  await term.type('stty size\n')
  await term.shows(/50 132/)
  await term.handle.kill()
})

feature('pty/reconnect', async () => {
  const s = await sandbox()
  const term = await terminal()
  await term.type('export KEPT=yes\n')
  await term.shows(/KEPT=yes/)
  await term.handle.disconnect()
  let screen = ''
  const again = await s.pty.connect(term.handle.pid, { onData: (data) => (screen += new TextDecoder().decode(data)) })
  again.wait().catch(() => {})
  await s.pty.sendInput(again.pid, bytes('echo "kept=$KEPT"\n'))
  await eventually(() => screen.includes('kept=yes'), 'the variable of the old terminal')
  await again.kill()
})

feature('pty/kill', async () => {
  const s = await sandbox()
  const term = await terminal()
  assert.equal(await s.pty.kill(term.handle.pid), true)
  await rejection(term.handle.wait())
  assert.equal(await s.pty.kill(999_999), false)
})
