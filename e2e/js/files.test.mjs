// Files, watching, signed URLs.

import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { e2b, eventually, feature, rejection, sandbox } from './suite.mjs'

const files = async () => (await sandbox()).files
const sha256 = (data) => createHash('sha256').update(data).digest('hex')

function streamOf(...chunks) {
  return new ReadableStream({
    start(c) {
      for (const chunk of chunks) c.enqueue(typeof chunk === 'string' ? new TextEncoder().encode(chunk) : chunk)
      c.close()
    },
  })
}

feature('files/text', async () => {
  const f = await files()
  const info = await f.write('deep/er/text.txt', 'Grüße ✓\n')
  assert.deepEqual([info.name, info.type, info.path], ['text.txt', 'file', '/home/user/deep/er/text.txt'])
  assert.equal(await f.read('deep/er/text.txt'), 'Grüße ✓\n')
  await f.write('deep/er/text.txt', 'less')
  assert.equal(await f.read('/home/user/deep/er/text.txt'), 'less')
})

feature('files/bytes', async () => {
  const f = await files()
  const all = Uint8Array.from({ length: 256 }, (_, n) => n)
  await f.write('all.bin', all.buffer)
  assert.deepEqual(await f.read('all.bin', { format: 'bytes' }), all)
})

feature('files/blob', async () => {
  const f = await files()
  await f.write('blob', new Blob(['in ', 'parts']))
  const blob = await f.read('blob', { format: 'blob' })
  assert.equal(await blob.text(), 'in parts')
})

feature('files/stream', async () => {
  const f = await files()
  const data = randomBytes(1 << 20)
  await f.write('streamed.bin', new Blob([data]))
  const chunks = []
  for await (const chunk of await f.read('streamed.bin', { format: 'stream' })) chunks.push(chunk)
  assert.equal(sha256(Buffer.concat(chunks)), sha256(data))
})

feature('files/write-many', async () => {
  const f = await files()
  const infos = await f.write([
    { path: 'many/a', data: 'A' },
    { path: '/tmp/many/b', data: new Blob(['B']) },
  ])
  assert.deepEqual(infos.map((i) => i.path), ['/home/user/many/a', '/tmp/many/b'])
  assert.deepEqual([await f.read('many/a'), await f.read('/tmp/many/b')], ['A', 'B'])
  assert.deepEqual(await f.write([]), [])
})

feature('files/upload-stream', async () => {
  const f = await files()
  await f.write('from-stream', streamOf('one ', 'two ', 'three'))
  assert.equal(await f.read('from-stream'), 'one two three')
})

feature('files/octet-stream', async () => {
  const f = await files()
  const info = await f.write('octets', 'plain', { useOctetStream: true })
  assert.equal(info.path, '/home/user/octets')
  assert.equal(await f.read('octets'), 'plain')
})

feature('files/gzip', async () => {
  const f = await files()
  const text = 'again and again '.repeat(10_000)
  await f.write('zipped', text, { gzip: true })
  assert.equal((await f.getInfo('zipped')).size, text.length)
  assert.equal(await f.read('zipped', { gzip: true }), text)
  assert.equal(await f.read('zipped'), text)
})

feature('files/large', async () => {
  const f = await files()
  const data = randomBytes(20 << 20)
  await f.write('large.bin', new Blob([data]))
  const { stdout } = await (await sandbox()).commands.run('sha256sum large.bin')
  assert.equal(stdout.slice(0, 64), sha256(data))
  assert.equal(sha256(await f.read('large.bin', { format: 'bytes' })), sha256(data))
  await f.remove('large.bin')
})

feature('files/empty', async () => {
  const f = await files()
  await f.write('empty', '')
  assert.equal(await f.read('empty'), '')
  assert.equal((await f.read('empty', { format: 'bytes' })).length, 0)
  assert.equal((await f.getInfo('empty')).size, 0)
})

feature('files/proc', async () => {
  const f = await files()
  assert.match(await f.read('/proc/sys/kernel/random/boot_id'), /^[0-9a-f-]{36}\n$/)
  assert.match(await f.read('/proc/self/status', { user: 'root' }), /^Name:/)
})

feature('files/list', async () => {
  const f = await files()
  await f.write([
    { path: 'tree/file', data: '' },
    { path: 'tree/sub/inner', data: '' },
    { path: 'tree/sub/deeper/last', data: '' },
  ])
  const paths = async (depth) => (await f.list('tree', { depth })).map((e) => e.path.replace('/home/user/tree/', '')).sort()
  assert.deepEqual(await paths(), ['file', 'sub'])
  assert.deepEqual(await paths(2), ['file', 'sub', 'sub/deeper', 'sub/inner'])
  assert.deepEqual(await paths(3), ['file', 'sub', 'sub/deeper', 'sub/deeper/last', 'sub/inner'])
  const types = Object.fromEntries((await f.list('tree')).map((e) => [e.name, e.type]))
  assert.deepEqual(types, { file: 'file', sub: 'dir' })
  await assert.rejects(f.list('tree', { depth: 0 }), e2b.InvalidArgumentError)
})

feature('files/info', async () => {
  const f = await files()
  await f.write('known', '12345')
  const info = await f.getInfo('known')
  assert.deepEqual(
    [info.name, info.type, info.path, info.size, info.mode, info.permissions, info.owner, info.group],
    ['known', 'file', '/home/user/known', 5, 0o644, '-rw-r--r--', 'user', 'user'],
  )
  assert.ok(Math.abs(info.modifiedTime - Date.now()) < 60_000, info.modifiedTime)
  const dir = await f.getInfo('/tmp')
  assert.deepEqual([dir.type, dir.owner], ['dir', 'root'])
})

feature('files/symlink', async () => {
  const f = await files()
  await f.write('real', 'thing')
  await (await sandbox()).commands.run('ln -sf real link')
  const info = await f.getInfo('link')
  assert.equal(info.symlinkTarget, '/home/user/real')
  assert.equal(await f.read('link'), 'thing')
  assert.equal((await f.getInfo('real')).symlinkTarget, undefined)
})

feature('files/exists', async () => {
  const f = await files()
  await f.write('there', '')
  assert.deepEqual([await f.exists('there'), await f.exists('/tmp'), await f.exists('nowhere/at/all')], [true, true, false])
})

feature('files/make-dir', async () => {
  const f = await files()
  assert.equal(await f.makeDir('a/b/c'), true)
  assert.equal(await f.makeDir('a/b/c'), false)
  assert.equal((await f.getInfo('a/b/c')).type, 'dir')
})

feature('files/rename', async () => {
  const f = await files()
  await f.write('before', 'same')
  const info = await f.rename('before', 'moved/after')
  assert.equal(info.path, '/home/user/moved/after')
  assert.equal(await f.read('moved/after'), 'same')
  assert.equal(await f.exists('before'), false)
  await assert.rejects(f.rename('before', 'x'), e2b.NotFoundError)
})

feature('files/remove', async () => {
  const f = await files()
  await f.write('gone/with/all', '')
  await f.remove('gone')
  assert.equal(await f.exists('gone'), false)
})

feature('files/users', async () => {
  const f = await files()
  const info = await f.write('mine', 'secret', { user: 'root' })
  assert.equal(info.path, '/root/mine')
  assert.equal((await f.getInfo('/root/mine', { user: 'root' })).owner, 'root')
  assert.equal(await f.read('mine', { user: 'root' }), 'secret')
  await assert.rejects(f.read('mine', { user: 'ghost' }), e2b.AuthenticationError)
})

feature('files/metadata', async () => {
  const f = await files()
  const info = await f.write('tagged', 'x', { metadata: { Author: 'ida', step: '2' } })
  assert.deepEqual(info.metadata, { author: 'ida', step: '2' })
  assert.deepEqual((await f.getInfo('tagged')).metadata, { author: 'ida', step: '2' })
  await f.write('tagged', 'y')
  assert.equal((await f.getInfo('tagged')).metadata, undefined)
})

feature('files/missing', async () => {
  const f = await files()
  for (const call of ['read', 'getInfo', 'list']) {
    const err = await rejection(f[call]('nope'))
    assert.ok(err instanceof e2b.FileNotFoundError, err)
    assert.match(err.message, /nope/)
  }
})

feature('files/invalid', async () => {
  const f = await files()
  await f.write('plain-file', '')
  await assert.rejects(f.read('/tmp'), e2b.InvalidArgumentError)
  await assert.rejects(f.list('plain-file'), e2b.InvalidArgumentError)
  await assert.rejects(f.makeDir('plain-file'), e2b.InvalidArgumentError)
  await assert.rejects(f.write('nul\0byte', ''), e2b.SandboxError)
})

feature('files/no-space', async () => {
  const f = await files()
  const { commands } = await sandbox()
  await commands.run('mkdir -p /mnt/small && mount -t tmpfs -o size=1m,mode=777 tmpfs /mnt/small', { user: 'root' })
  await assert.rejects(f.write('/mnt/small/big', 'x'.repeat(3 << 20)), e2b.NotEnoughSpaceError)
  await commands.run('umount /mnt/small', { user: 'root' })
})

/** Watches a directory and returns what happens in it. */
async function watch(dir, opts) {
  const f = await files()
  await f.makeDir(dir)
  const seen = []
  const handle = await f.watchDir(dir, (event) => seen.push(event), opts)
  const saw = (type, name) => eventually(() => seen.find((e) => e.type === type && e.name === name), () => `${type} ${name} in ${JSON.stringify(seen)}`)
  return { f, handle, saw, seen }
}

feature('watch/events', async () => {
  const { f, handle, saw, seen } = await watch('watched')
  await f.write('watched/new', 'x')
  await saw('create', 'new')
  await saw('write', 'new')
  await f.rename('watched/new', 'watched/newer')
  await saw('rename', 'new')
  await saw('create', 'newer')
  await (await sandbox()).commands.run('chmod 600 watched/newer')
  await saw('chmod', 'newer')
  await f.remove('watched/newer')
  await saw('remove', 'newer')
  await handle.stop()
  const before = seen.length
  await f.write('watched/unseen', '')
  await (await sandbox()).commands.run('sleep 0.3')
  assert.equal(seen.length, before)
})

feature('watch/recursive', async () => {
  const { f, handle, saw } = await watch('forest/tree', { recursive: true })
  await f.makeDir('forest/tree/branch')
  await saw('create', 'branch')
  await f.write('forest/tree/branch/leaf', 'x')
  await saw('write', 'branch/leaf')
  await handle.stop()
})

feature('watch/entry', async () => {
  const { f, handle, saw } = await watch('described', { includeEntry: true })
  await f.write('described/it', '1234')
  const { entry } = await saw('create', 'it')
  assert.deepEqual([entry?.name, entry?.path, entry?.type], ['it', '/home/user/described/it', 'file'])
  await handle.stop()
})

feature('watch/missing', async () => {
  const f = await files()
  await assert.rejects(f.watchDir('not-there', () => {}), e2b.NotFoundError)
  await f.write('not-a-dir', '')
  await assert.rejects(f.watchDir('not-a-dir', () => {}), e2b.InvalidArgumentError)
})

feature('urls/download', async () => {
  const s = await sandbox()
  await s.files.write('with space & more', 'for all')
  const res = await fetch(await s.downloadUrl('with space & more', { useSignatureExpiration: 60 }))
  assert.deepEqual([res.status, await res.text()], [200, 'for all'])
  const part = await fetch(await s.downloadUrl('with space & more'), { headers: { Range: 'bytes=4-' } })
  assert.deepEqual([part.status, await part.text()], [206, 'all'])
  const missing = await fetch(await s.downloadUrl('not here'))
  assert.equal(missing.status, 404)
})

feature('urls/upload', async () => {
  const s = await sandbox()
  const form = new FormData()
  form.append('file', new Blob(['uploaded']), 'ignored')
  const res = await fetch(await s.uploadUrl('by-url/file', { useSignatureExpiration: 60 }), { method: 'POST', body: form })
  assert.equal(res.status, 200, await res.clone().text())
  assert.equal(await s.files.read('by-url/file'), 'uploaded')

  const named = new FormData()
  named.append('file', new Blob(['named']), 'by-name')
  const res2 = await fetch(await s.uploadUrl(), { method: 'POST', body: named })
  assert.equal(res2.status, 200, await res2.clone().text())
  assert.equal(await s.files.read('by-name'), 'named')
})

feature('urls/expiry', async () => {
  const s = await sandbox()
  await s.files.write('short', 'lived')
  const url = await s.downloadUrl('short', { useSignatureExpiration: 1 })
  assert.equal((await fetch(url)).status, 200)
  const res = await eventually(async () => {
    const res = await fetch(url)
    return res.status !== 200 && res
  }, 'the expiry')
  assert.equal(res.status, 401)
  assert.match(await res.text(), /expired/)
})

feature('urls/forged', async () => {
  const s = await sandbox()
  const url = new URL(await s.downloadUrl('short'))
  url.searchParams.set('path', '/etc/shadow')
  assert.equal((await fetch(url)).status, 401)
  url.searchParams.delete('signature')
  assert.ok((await fetch(url)).status >= 400)
})
