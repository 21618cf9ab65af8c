// From create to the end.

import assert from 'node:assert/strict'
import { create, e2b, eventually, feature, mark, rejection, sandbox, Sandbox, sleep } from './suite.mjs'

const seconds = (info) => (info.endAt - info.startedAt) / 1000

async function all(paginator) {
  const items = []
  while (paginator.hasNext) items.push(...(await paginator.nextItems()))
  return items
}

feature('lifecycle/create', async () => {
  const s = await Sandbox.create({ metadata: mark })
  try {
    assert.match(s.sandboxId, /^[a-z0-9]+$/)
    const info = await s.getInfo()
    assert.equal(info.name, 'base')
    assert.equal(seconds(info), 300)
  } finally {
    assert.equal(await s.kill(), true)
  }
})

feature('lifecycle/timeout', async () => {
  const s = await create({ timeoutMs: 60_000 })
  assert.equal(seconds(await s.getInfo()), 60)
  const left = async () => ((await s.getInfo()).endAt - Date.now()) / 1000
  await s.setTimeout(600_000)
  assert.ok(Math.abs((await left()) - 600) < 5, `${await left()} s left, want 600`)
  await Sandbox.setTimeout(s.sandboxId, 30_000)
  assert.ok(Math.abs((await left()) - 30) < 5, `${await left()} s left, want 30`)
})

feature('lifecycle/expiry', async () => {
  const s = await create({ timeoutMs: 2_000 })
  await eventually(async () => !(await s.isRunning()), 'the end')
  await assert.rejects(s.getInfo(), e2b.SandboxNotFoundError)
  await assert.rejects(s.commands.run('true'), e2b.SandboxNotFoundError)
  await assert.rejects(s.files.read('/etc/hostname'), e2b.TimeoutError)
})

feature('lifecycle/kill', async () => {
  const s = await create()
  assert.equal(await Sandbox.kill(s.sandboxId), true)
  assert.equal(await Sandbox.kill(s.sandboxId), false)
  assert.equal(await s.kill(), false)
  const t = await create()
  assert.equal(await t.kill(), true)
})

feature('lifecycle/connect', async () => {
  const s = await create({ timeoutMs: 60_000 })
  await s.files.write('note', 'left here')
  const again = await Sandbox.connect(s.sandboxId, { timeoutMs: 5_000 })
  assert.equal(again.sandboxId, s.sandboxId)
  assert.equal(await again.files.read('note'), 'left here')
  assert.ok((await s.getInfo()).endAt - Date.now() > 40_000, 'connect with a shorter timeout shortened it')
  await again.connect({ timeoutMs: 120_000 })
  assert.ok((await s.getInfo()).endAt - Date.now() > 100_000, 'connect with a longer timeout did not extend it')
})

feature('lifecycle/gone', async () => {
  const s = await create()
  await s.kill()
  for (const id of [s.sandboxId, 'inobodyeverhadthisidx']) {
    await assert.rejects(Sandbox.connect(id), e2b.SandboxNotFoundError)
    await assert.rejects(Sandbox.getInfo(id), e2b.SandboxNotFoundError)
    await assert.rejects(Sandbox.setTimeout(id, 10_000), e2b.SandboxNotFoundError)
  }
  await assert.rejects(Sandbox.getMetrics('inobodyeverhadthisidx'), e2b.SandboxNotFoundError)
})

feature('lifecycle/info', async () => {
  const s = await sandbox()
  const info = await s.getInfo()
  assert.equal(info.sandboxId, s.sandboxId)
  assert.equal(info.name, 'base')
  assert.equal(info.state, 'running')
  assert.ok(info.templateId)
  assert.ok(info.cpuCount >= 1)
  assert.ok(info.memoryMB >= 128)
  assert.match(info.envdVersion, /^\d+\.\d+\.\d+$/)
  assert.ok(Math.abs(info.startedAt - Date.now()) < 120_000)
  assert.deepEqual(info.lifecycle, { onTimeout: 'kill', autoResume: false })
  assert.deepEqual(await Sandbox.getInfo(s.sandboxId), info)
})

feature('lifecycle/is-running', async () => {
  const s = await create()
  assert.equal(await s.isRunning(), true)
  await s.kill()
  assert.equal(await s.isRunning(), false)
})

feature('lifecycle/metadata', async () => {
  const metadata = { user: 'ida', 'with space': 'a&b=c', ünïcode: '✓' }
  const s = await create({ metadata })
  assert.deepEqual((await s.getInfo()).metadata, { ...mark, ...metadata })
})

feature('lifecycle/envs', async () => {
  const s = await create({ envs: { COLOUR: 'green', EMPTY: '', QUOTED: `"it's"` } })
  const { stdout } = await s.commands.run('printf "%s|%s|%s|%s" "$COLOUR" "${EMPTY-unset}" "$QUOTED" "$E2B_SANDBOX_ID"')
  assert.equal(stdout, `green||"it's"|${s.sandboxId}`)
})

feature('lifecycle/list', async () => {
  const metadata = { group: `list-${Date.now()}` }
  const ids = []
  for (let n = 0; n < 3; n++) ids.push((await create({ metadata })).sandboxId)
  const list = (opts) => Sandbox.list({ query: { metadata }, ...opts })

  const paginator = list({ limit: 2 })
  const first = await paginator.nextItems()
  assert.deepEqual(first.map((i) => i.sandboxId), [ids[2], ids[1]])
  assert.equal(paginator.hasNext, true)
  const second = await paginator.nextItems()
  assert.deepEqual(second.map((i) => i.sandboxId), [ids[0]])
  assert.equal(paginator.hasNext, false)
  assert.deepEqual((await all(list({ order: 'asc', limit: 1 }))).map((i) => i.sandboxId), ids)
})

feature('lifecycle/filters', async () => {
  const group = `filter-${Date.now()}`
  const old = await create({ metadata: { group, which: 'old & first' } })
  await sleep(1_100)
  const between = new Date((await old.getInfo()).startedAt.getTime() + 1_000)
  const fresh = await create({ metadata: { group } })
  const found = async (query) => (await all(Sandbox.list({ query: { metadata: { group }, ...query } }))).map((i) => i.sandboxId)

  assert.deepEqual(await found({}), [fresh.sandboxId, old.sandboxId])
  assert.deepEqual(await found({ metadata: { group, which: 'old & first' } }), [old.sandboxId])
  assert.deepEqual(await found({ metadata: { group, which: 'other' } }), [])
  assert.deepEqual(await found({ state: ['running'] }), [fresh.sandboxId, old.sandboxId])
  assert.deepEqual(await found({ state: ['paused'] }), [])
  assert.deepEqual(await found({ template: 'base' }), [fresh.sandboxId, old.sandboxId])
  assert.deepEqual(await found({ startedAfter: between }), [fresh.sandboxId])
  assert.deepEqual(await found({ startedAfter: (await old.getInfo()).startedAt }), [fresh.sandboxId, old.sandboxId])
  await fresh.kill()
  assert.deepEqual(await found({}), [old.sandboxId])
})

feature('lifecycle/client-object', async () => {
  const client = new e2b.E2B({ apiKey: process.env.E2B_API_KEY, apiUrl: process.env.E2B_API_URL, sandboxUrl: process.env.E2B_SANDBOX_URL })
  const s = await client.Sandbox.create('base', { metadata: mark })
  try {
    assert.equal((await s.commands.run('echo bound')).stdout, 'bound\n')
  } finally {
    assert.equal(await client.Sandbox.kill(s.sandboxId), true)
  }
})

feature('lifecycle/bad-template', async () => {
  const err = await rejection(create({}, 'no-such-template'))
  assert.match(err.message, /no-such-template/)
})

feature('lifecycle/bad-key', async () => {
  const apiKey = 'e2b_' + '0'.repeat(40)
  await assert.rejects(create({ apiKey }), e2b.AuthenticationError)
  await assert.rejects(Sandbox.list({ apiKey }).nextItems(), e2b.AuthenticationError)
  const s = await sandbox()
  await assert.rejects(Sandbox.kill(s.sandboxId, { apiKey }), e2b.AuthenticationError)
})

feature('lifecycle/bad-value', async () => {
  for (const timeoutMs of [-1_000, 1e12]) {
    const err = await rejection(create({ timeoutMs }))
    assert.match(err.message, /^400: .*timeout/)
  }
  const err = await rejection(create({ envs: { 'A=B': 'x' } }))
  assert.match(err.message, /^400: .*envVars/)
})
