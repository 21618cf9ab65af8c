// Ports, network, metrics, logs, templates, git, and what is not there yet.

import assert from 'node:assert/strict'
import http from 'node:http'
import { WebSocket } from 'undici'
import { create, e2b, eventually, feature, guest, later, rejection, sandbox, Sandbox, server, sleep, version } from './suite.mjs'

const started = new Map()

/** Starts the test's web server in the shared sandbox, once per port. */
async function web(address, port) {
  const s = await sandbox()
  if (!started.has(port)) {
    started.set(port, (async () => {
      await s.files.write('/tmp/web.py', guest('web.py'))
      const handle = await s.commands.run(`python3 /tmp/web.py ${address} ${port}`, { background: true, timeoutMs: 0 })
      handle.wait().catch(() => {})
      await eventually(async () => (await request(s, port, '/')).status === 200, 'the web server')
    })())
  }
  await started.get(port)
  return s
}

const route = (s, port) => ({ 'E2b-Sandbox-Id': s.sandboxId, 'E2b-Sandbox-Port': String(port) })

/** Asks a port of a sandbox by headers, or by host name if one is given. */
function request(s, port, path, host, more) {
  return new Promise((resolve, reject) => {
    const headers = { ...(host ? { Host: host } : route(s, port)), ...more }
    http.get({ hostname: '127.0.0.1', port: server.port, path, headers }, async (res) => {
      const body = (await res.toArray()).join('')
      resolve({ status: res.statusCode, body, headers: res.headers })
    }).on('error', reject)
  })
}

feature('ports/http', async () => {
  const s = await web('0.0.0.0', 8000)
  const byHeader = await request(s, 8000, '/')
  assert.equal(byHeader.status, 200)
  assert.match(byHeader.body, /^hello from /)
  const host = s.getHost(8000)
  assert.ok(host.startsWith(`8000-${s.sandboxId}.`), host)
  const byHost = await request(s, 8000, '/', host)
  assert.deepEqual([byHost.status, byHost.body], [200, `hello from ${host}`])
})

feature('ports/loopback', async () => {
  const s = await web('127.0.0.1', 8001)
  assert.equal((await request(s, 8001, '/')).status, 200)
})

feature('ports/websocket', async () => {
  const s = await web('0.0.0.0', 8000)
  const ws = new WebSocket(`ws://127.0.0.1:${server.port}/ws`, { headers: route(s, 8000) })
  const heard = []
  await new Promise((resolve, reject) => {
    ws.onerror = (e) => reject(e.error ?? new Error('the WebSocket broke'))
    ws.onopen = () => ['first', '✓'.repeat(100)].forEach((m) => ws.send(m))
    ws.onmessage = ({ data }) => heard.push(data) === 2 && resolve()
  })
  assert.deepEqual(heard, ['first', '✓'.repeat(100)])
  const closed = new Promise((resolve) => (ws.onclose = resolve))
  ws.close()
  await closed
})

feature('ports/streaming', async () => {
  const s = await web('0.0.0.0', 8000)
  const at = []
  const start = Date.now()
  let body = ''
  await new Promise((resolve, reject) => {
    http.get({ hostname: '127.0.0.1', port: server.port, path: '/slow', headers: route(s, 8000) }, (res) => {
      res.on('data', (d) => (at.push(Date.now() - start), (body += d))).on('end', resolve).on('error', reject)
    }).on('error', reject)
  })
  assert.equal(body, 'line 0\nline 1\nline 2\nline 3\nline 4\n')
  assert.ok(at.at(-1) - at[0] > 500, `chunks came at ${at} ms`)

  // Both ways at once: each chunk is sent only after the last was answered.
  const answers = []
  await new Promise((resolve, reject) => {
    const req = http.request({ method: 'POST', hostname: '127.0.0.1', port: server.port, path: '/count', headers: route(s, 8000) }, (res) => {
      res.on('data', (d) => {
        answers.push(String(d))
        answers.length < 3 ? req.write('12345') : req.end()
      }).on('end', resolve).on('error', reject)
    }).on('error', reject)
    req.write('12345')
  })
  assert.equal(answers.join(''), '5\n10\n15\n')
})

feature('ports/closed', async () => {
  const s = await sandbox()
  const res = await request(s, 8999, '/')
  assert.equal(res.status, 502)
  const { sandboxId, message, port, code } = JSON.parse(res.body)
  assert.deepEqual([sandboxId, port, code], [s.sandboxId, 8999, 502])
  assert.match(message, /port is not open/)
})

feature('ports/gone', async () => {
  const s = await create()
  const host = s.getHost(8000)
  await s.kill()
  for (const res of [await request(s, 8000, '/'), await request(s, 8000, '/', host), await request(s, 49983, '/health')]) {
    assert.equal(res.status, 502)
    const { sandboxId, message, code } = JSON.parse(res.body)
    assert.deepEqual([sandboxId, code], [s.sandboxId, 502])
    assert.match(message, /sandbox was not found/)
  }
})

/** What a connection from inside to an address ends with: 0 is open. */
async function dial(s, address, port) {
  const probe = `import socket; print(socket.socket().connect_ex(("${address}", ${port})))`
  const { stdout } = await s.commands.run(`timeout 3 python3 -c '${probe}' || echo silent`)
  return stdout.trim()
}

feature('ports/private', async () => {
  const s = await create({ network: { allowPublicTraffic: false }, lifecycle: { onTimeout: 'pause', autoResume: true } })
  assert.ok(s.trafficAccessToken, 'no token')
  assert.equal((await s.getInfo()).network.allowPublicTraffic, false)
  // Detached: a client whose command is cut off by the pause asks the agent
  // whether it is still there, which resumes the sandbox.
  await s.commands.run('setsid python3 -m http.server 8000 >/dev/null 2>&1 &')
  const token = { 'e2b-traffic-access-token': s.trafficAccessToken }
  await eventually(async () => (await request(s, 8000, '/', undefined, token)).status === 200, 'the web server')
  assert.equal((await request(s, 8000, '/', s.getHost(8000), token)).status, 200)
  const refused = async (headers, message) => {
    for (const host of [undefined, s.getHost(8000)]) {
      const { status, body } = await request(s, 8000, '/', host, headers)
      const { sandboxId, code, message: said } = JSON.parse(body)
      assert.deepEqual([status, sandboxId, code], [403, s.sandboxId, 403])
      assert.match(said, message)
    }
  }
  await refused({}, /Token header 'e2b-traffic-access-token' is missing/)
  await refused({ 'e2b-traffic-access-token': 'x' }, /in header 'e2b-traffic-access-token' is invalid/)
  assert.equal((await Sandbox.connect(s.sandboxId)).trafficAccessToken, s.trafficAccessToken)
  await s.pause()
  await refused({}, /may not resume/)
  assert.equal((await s.getInfo()).state, 'paused')
  assert.equal((await request(s, 8000, '/', undefined, token)).status, 200)
  assert.equal((await create()).trafficAccessToken, undefined)
}, { timeout: 60_000 })

feature('network/internet-off', async () => {
  const s = await create({ allowInternetAccess: false })
  assert.equal((await s.getInfo()).allowInternetAccess, false)
  assert.notEqual(await dial(s, '1.1.1.1', 443), '0')
  const t = await create()
  assert.equal((await t.getInfo()).allowInternetAccess, true)
  await t.updateNetwork({ allowInternetAccess: false })
  assert.equal((await t.getInfo()).allowInternetAccess, false)
  assert.notEqual(await dial(t, '1.1.1.1', 443), '0')
  assert.equal((await t.commands.run('echo still there')).stdout, 'still there\n')
})

feature('network/host-closed', async () => {
  const s = await sandbox()
  const { stdout } = await s.commands.run(`python3 - <<'E'
import socket, struct
gateways = {"169.254.169.254"}
for line in open("/proc/net/route").readlines()[1:]:
    fields = line.split()
    if fields[1] == "00000000":
        gateways.add(socket.inet_ntoa(struct.pack("<I", int(fields[2], 16))))
for address in gateways:
    for port in (22, 80, ${server.port}):
        s = socket.socket()
        s.settimeout(1)
        if s.connect_ex((address, port)) == 0:
            print(address, port)
E`)
  assert.equal(stdout, '')
})

feature('observe/metrics', async () => {
  const s = await sandbox()
  const [m] = await eventually(async () => {
    const all = await s.getMetrics()
    return all.length > 0 && all
  }, 'a measurement', 20_000)
  assert.ok(m.cpuCount >= 1 && m.memTotal > 1e8 && m.memUsed > 0 && m.memUsed < m.memTotal && m.diskTotal > m.diskUsed, JSON.stringify(m))
  assert.ok(m.cpuUsedPct >= 0)
})

feature('observe/metrics-range', async () => {
  const s = await sandbox()
  const start = new Date(Date.now() - 60_000)
  await eventually(async () => (await s.getMetrics({ start, end: new Date(Date.now() + 5_000) })).length > 0, 'a measurement', 20_000)
  const before = await s.getMetrics({ start: new Date(Date.now() - 7_200_000), end: new Date(Date.now() - 3_600_000) })
  assert.deepEqual(before, [])
})

feature('observe/logs', async () => {
  const s = await sandbox()
  await s.commands.run('echo written-to-the-log')
  const { api } = new e2b.ApiClient(new e2b.ConnectionConfig())
  const logs = await eventually(async () => {
    const { data } = await api.GET('/sandboxes/{sandboxID}/logs', { params: { path: { sandboxID: s.sandboxId } } })
    return data.logs.some((l) => l.line.includes('written-to-the-log')) && data.logs
  }, 'the log entry')
  for (const { line, timestamp } of logs) {
    assert.ok(JSON.parse(line).level, line)
    assert.ok(!Number.isNaN(Date.parse(timestamp)), timestamp)
  }
})

feature('templates/exists', async () => {
  assert.equal(await e2b.Template.exists('base'), true)
  assert.equal(await e2b.Template.exists('no-such-template'), false)
})

feature('git/module', async () => {
  const { git, files, commands } = await sandbox()
  await git.init('repo', { initialBranch: 'main' })
  await git.configureUser('Ida', 'ida@example.org', { scope: 'local', path: 'repo' })
  await files.write('repo/readme', 'hello')
  await git.add('repo')
  await git.commit('repo', 'first words')
  const status = await git.status('repo')
  assert.deepEqual([status.currentBranch, status.fileStatus], ['main', []])
  assert.match((await commands.run('git -C repo log --format=%an:%s')).stdout, /^Ida:first words$/m)
})

later('later/allow-list', () => create({ network: { allowOut: ['1.1.1.1'], denyOut: [e2b.ALL_TRAFFIC] } }))
later('later/rules', () => create({ network: { rules: { 'example.org': [{ transform: { headers: { 'x-a': 'b' } } }] } } }))
later('later/egress-proxy', () => create({ network: { egressProxy: { address: '192.0.2.1:1080' } } }))
later('later/mask-host', () => create({ network: { maskRequestHost: 'localhost:${PORT}' } }))
later('later/https-ports', () => create({ network: { httpsPorts: [8443] } }), { since: '2.51.0' })
later('later/mcp', () => create({ mcp: { time: {} } }))
later('later/iam', () => create({ iam: { tokens: { a: { audience: 'b', tokenType: 'JWT-SVID' } } } }))
feature('later/volumes', async () => {
  const err = await rejection(e2b.Volume.create('vol'))
  assert.match(err.message, /not available in this version/)
  const mount = await rejection(create({ volumeMounts: { '/data': 'vol' } }))
  assert.match(mount.message, /^400: .*not available in this version/)
})
feature('later/secrets', async () => {
  const err = await rejection(e2b.Secret.create('name', 'value'))
  assert.match(err.message, /not available in this version/)
})
