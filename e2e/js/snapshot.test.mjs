// Pausing, resuming, forking, and snapshots that sandboxes are made of.

import assert from 'node:assert/strict'
import { create, e2b, eventually, feature, rejection, Sandbox, sandbox } from './suite.mjs'

// A program that counts, so that whoever looks twice sees whether it runs.
const counter = `python3 -c '
import time
n = 0
while True:
    n += 1
    open("/tmp/n", "w").write(str(n))
    time.sleep(0.05)
'`

const counts = async (s) => {
  const before = Number(await s.files.read('/tmp/n'))
  return eventually(async () => Number(await s.files.read('/tmp/n')) > before, 'the counter')
}

const state = async (s) => (await Sandbox.getInfo(s.sandboxId)).state

feature('lifecycle/pause', async () => {
  const s = await create()
  await s.files.write('note', 'kept')
  const program = await s.commands.run(counter, { background: true, timeoutMs: 0 })
  await eventually(() => s.files.exists('/tmp/n'), 'the counter')
  assert.equal(await s.pause(), true)
  assert.equal(await s.pause(), false, 'a second pause says false')
  assert.equal(await state(s), 'paused')
  assert.equal(await s.isRunning(), false)
  const again = await Sandbox.connect(s.sandboxId, { timeoutMs: 60_000 })
  assert.equal(await again.files.read('note'), 'kept')
  assert.ok((await again.commands.list()).some((p) => p.pid === program.pid), 'the program is gone')
  await counts(again)
  assert.equal(await state(s), 'running')
})

feature('lifecycle/pause-kill', async () => {
  const s = await create()
  await s.pause()
  assert.equal(await s.kill(), true)
  assert.equal(await Sandbox.kill(s.sandboxId), false)
  await assert.rejects(Sandbox.connect(s.sandboxId), e2b.SandboxNotFoundError)
})

feature('lifecycle/auto-pause', async () => {
  const s = await create({ timeoutMs: 2_000, lifecycle: { onTimeout: 'pause' } })
  await s.files.write('note', 'kept')
  await eventually(async () => (await state(s)) === 'paused', 'the pause')
  const again = await Sandbox.connect(s.sandboxId, { timeoutMs: 60_000 })
  assert.equal(await again.files.read('note'), 'kept')
})

feature('lifecycle/auto-resume', async () => {
  const s = await create({ timeoutMs: 60_000, lifecycle: { onTimeout: 'pause', autoResume: true } })
  await s.files.write('note', 'kept')
  await s.pause()
  assert.equal(await s.files.read('note'), 'kept')
  assert.equal(await state(s), 'running')
})

feature('lifecycle/fork', async () => {
  const s = await create()
  await s.files.write('note', 'of all')
  const forks = await s.fork({ count: 3 })
  assert.equal(forks.length, 3)
  try {
    for (const fork of forks) {
      assert.ok(!(fork instanceof Error), String(fork))
      assert.notEqual(fork.sandboxId, s.sandboxId)
      assert.equal(await fork.files.read('note'), 'of all')
      await fork.files.write('note', fork.sandboxId)
    }
    assert.equal(await s.files.read('note'), 'of all')
    for (const fork of forks) assert.equal(await fork.files.read('note'), fork.sandboxId)
  } finally {
    await Promise.all(forks.map((fork) => fork instanceof Error || fork.kill()))
  }
})

feature('lifecycle/snapshots', async () => {
  const s = await create()
  await s.files.write('note', 'then')
  const snapshot = await s.createSnapshot()
  await s.files.write('note', 'now')
  const made = await create({}, snapshot.snapshotId)
  assert.equal(await made.files.read('note'), 'then')
  assert.equal(await s.files.read('note'), 'now')
  const listed = await Sandbox.listSnapshots({ sandboxId: s.sandboxId }).nextItems()
  assert.deepEqual(listed.map((l) => l.snapshotId), [snapshot.snapshotId])
  await s.kill()
  const later = await create({}, snapshot.snapshotId)
  assert.equal(await later.files.read('note'), 'then')
  assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), true)
  assert.equal(await Sandbox.deleteSnapshot(snapshot.snapshotId), false)
  await rejection(Sandbox.create(snapshot.snapshotId))
})

feature('lifecycle/reboot', async () => {
  const s = await create()
  await s.files.write('note', 'kept')
  const boot = async (s) => (await s.commands.run('cat /proc/sys/kernel/random/boot_id')).stdout
  const before = await boot(s)
  await s.pause()
  const again = await Sandbox.connect(s.sandboxId, { onResume: 'reboot', timeoutMs: 60_000 })
  assert.equal(await again.files.read('note'), 'kept')
  assert.notEqual(await boot(again), before)
}, { since: '2.51.0' })
