// Templates: built by the SDK's builder, started, tagged, built again.

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { create, e2b, eventually, feature, guest, mark, rejection, Sandbox, server, version } from './suite.mjs'

const { Template } = e2b
const registry = process.env.E2E_REGISTRY // as e2e/registry serves it; debian:bookworm comes from there, too
const slow = { timeout: 240_000 }

// What the suite builds, and the files that it copies.
const named = (what) => `${mark.e2e}-${version}-${what}`.replaceAll('.', '-')
const built = new Set()
const context = mkdtempSync(join(tmpdir(), 'e2e-template-'))

function write(path, text) {
  mkdirSync(join(context, path, '..'), { recursive: true })
  writeFileSync(join(context, path), text)
}

write('notes.txt', 'noted\n')
write('site/index.txt', 'index\n')
write('site/deep/er.txt', 'deeper\n')
write('site/.hidden', 'hidden\n')
write('site/debug.log', 'left out by .dockerignore\n')
write('site/draft.tmp', 'left out by fileIgnorePatterns\n')
write('site/space in name ✓.txt', 'named\n')
write('.dockerignore', '# not for templates\n**/*.log\n')
write('web.py', guest('web.py'))
write('links/target.txt', 'reached\n')
symlinkSync('target.txt', join(context, 'links/link'))
symlinkSync('nowhere', join(context, 'links/dangling')) // SDKs take one only by a pattern
symlinkSync(join(context, 'links/target.txt'), join(context, 'links/absolute')) // which leads nowhere in a sandbox

after(async () => {
  rmSync(context, { recursive: true, force: true })
  for (const id of built) await api('DELETE', `/templates/${id}`)
})

const from = (opts = {}) => Template({ fileContextPath: context, fileIgnorePatterns: ['**/*.tmp'], ...opts })

/** Builds a template, and returns what came of it and what it said. */
async function build(template, name, opts = {}) {
  const logs = []
  const info = await Template.build(template, name, { onBuildLogs: (l) => logs.push(l), ...opts })
  built.add(info.templateId)
  return { ...info, logs, text: logs.map((l) => l.message).join('\n') }
}

/** Builds a template of which nothing must come, and returns the error. */
async function failing(template, what) {
  const name = named(what)
  const err = await rejection(build(template, name))
  assert.ok(err instanceof e2b.BuildError, String(err))
  const left = await api('GET', `/templates/${name}`)
  if (left.status === 200) built.add((await left.json()).templateID)
  await assert.rejects(Sandbox.create(name), /no build that is ready|not found/)
  return err
}

/** Asks the API for what the SDK has no method for. */
const api = (method, path, body) =>
  fetch(process.env.E2B_API_URL + path, {
    method,
    headers: { 'X-API-KEY': process.env.E2B_API_KEY, 'Content-Type': 'application/json' },
    body: body && JSON.stringify(body),
  })

const run = async (s, cmd, opts) => (await s.commands.run(cmd, opts)).stdout

// The line of this file that ends in a remark.
const source = readFileSync(new URL(import.meta.url), 'utf8').split('\n')
const line = (remark) => source.findIndex((l) => l.endsWith(`// ${remark}`)) + 1

/** Checks that an error points at the line of this file with that remark. */
function pointsAt(err, remark) {
  const [first] = err.stack.split('\n').filter((l) => l.includes('template.test.mjs'))
  assert.match(first ?? err.stack, new RegExp(`template\\.test\\.mjs:${line(remark)}:`), `line ${line(remark)} is meant`)
}

// Built once; several tests look at it. The mark makes its steps new ones.
const everything = () => from()
  .fromBaseImage()
  .setEnvs({ MARK: named('whole'), GREETING: 'hello', QUOTES: `"a" 'b' $(c)`, MORE_PATH: '/opt/more:$PATH' })
  .copy('notes.txt', 'alone.txt')
  .copy('notes.txt', 'into/')
  .copy('site', 'site')
  .copy('site/*', 'picked/')
  .copy('links/*', 'links')
  .copy(['notes.txt', 'web.py'], 'both/')
  .copy('notes.txt', '/opt/mine/notes.txt', { user: 'root', mode: 0o640 })
  .runCmd('echo "$(whoami) $PWD $GREETING" > ran')
  .runCmd(['echo first > /opt/first', 'whoami > /opt/as'], { user: 'root' })
  .setWorkdir('/srv/app')
  .runCmd('pwd > where')
  .setUser('builder')
  .runCmd('whoami > /tmp/builder; echo said and done; echo moaned >&2; ls /srv/app')

let whole
const theWhole = () => (whole ??= build(everything(), named('whole'), { cpuCount: 1, memoryMB: 512 }))

let wholeBox
const theBox = () => (wholeBox ??= theWhole().then(() => create({}, named('whole'))))

feature('templates/build', async () => {
  const info = await theWhole()
  assert.equal(info.name, named('whole'))
  assert.deepEqual(info.tags, ['default'])
  assert.match(info.templateId, /^[a-z0-9]+$/)
  assert.match(info.buildId, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/)
  const s = await theBox()
  assert.equal((await s.getInfo()).templateId, info.templateId)
  assert.equal((await s.getInfo()).name, named('whole'))
}, slow)

feature('templates/steps', async () => {
  const s = await theBox()
  assert.equal(await s.files.read('/home/user/ran'), 'user /home/user hello\n')
  assert.equal(await s.files.read('/opt/first'), 'first\n')
  assert.equal(await s.files.read('/opt/as'), 'root\n')
  assert.equal(await s.files.read('/srv/app/where'), '/srv/app\n')
  assert.equal(await run(s, 'stat -c %U /srv/app'), 'user\n', 'a new working directory belongs to who works there')
  assert.equal(await s.files.read('/tmp/builder'), 'builder\n')
  // What the steps set is what sandboxes start with.
  assert.equal(await run(s, 'whoami; pwd'), 'builder\n/srv/app\n')
  assert.equal(await run(s, 'echo "$GREETING|$QUOTES"'), `hello|"a" 'b' $(c)\n`)
  assert.match(await run(s, 'echo $MORE_PATH'), /^\/opt\/more:(?=.*\/usr\/bin)/)
}, slow)

feature('templates/copy', async () => {
  const s = await theBox()
  const read = (path) => s.files.read(path, { user: 'root' })
  assert.equal(await read('/home/user/alone.txt'), 'noted\n')
  assert.equal(await read('/home/user/into/notes.txt'), 'noted\n')
  for (const folder of ['site', 'picked']) {
    assert.equal(await read(`/home/user/${folder}/index.txt`), 'index\n')
    assert.equal(await read(`/home/user/${folder}/deep/er.txt`), 'deeper\n')
    assert.equal(await read(`/home/user/${folder}/space in name ✓.txt`), 'named\n')
    assert.equal(await s.files.exists(`/home/user/${folder}/debug.log`), false)
    assert.equal(await s.files.exists(`/home/user/${folder}/draft.tmp`), false)
  }
  assert.equal(await read('/home/user/site/.hidden'), 'hidden\n')
  assert.equal(
    await run(s, 'cd /home/user/links && readlink link dangling absolute && cat link && ! cat absolute'),
    `target.txt\nnowhere\n${join(context, 'links/target.txt')}\nreached\n`
  )
  assert.equal(await run(s, 'ls /home/user/both'), 'notes.txt\nweb.py\n')
  assert.equal(await run(s, 'stat -c "%U %a" /opt/mine/notes.txt /home/user/alone.txt /home/user/site/deep'), 'root 640\nuser 644\nuser 755\n')
}, slow)

feature('templates/resolve-symlinks', async () => {
  const name = named('resolved')
  await build(from().fromBaseImage().copy('links/link', 'real.txt', { resolveSymlinks: true }).runCmd('test ! -L real.txt && grep reached real.txt'), name)
  assert.equal(await (await create({}, name)).files.read('real.txt'), 'reached\n')
}, slow)

feature('templates/upload-cache', async () => {
  const name = named('uploads')
  write('mine.txt', `for ${name}\n`)
  const template = (opts) => from().fromTemplate('base').copy('mine.txt', 'mine.txt', opts)
  assert.match((await build(template(), name)).text, /^Uploaded 'mine.txt'$/m)
  assert.match((await build(template(), name)).text, /^Skipping upload of 'mine.txt', already cached$/m)
  assert.match((await build(template({ forceUpload: true }), name)).text, /^Uploaded 'mine.txt'$/m)
  assert.match((await build(template({ forceUpload: true, gzip: false }), name)).text, /^Uploaded 'mine.txt'$/m)
  write('mine.txt', `changed for ${name}\n`)
  assert.match((await build(template(), name)).text, /^Uploaded 'mine.txt'$/m)
  assert.equal(await (await create({}, name)).files.read('mine.txt'), `changed for ${name}\n`)
}, slow)

feature('templates/helpers', async () => {
  const name = named('helpers')
  await build(
    from()
      .fromTemplate('base')
      .makeDir(['a/b', 'c d'], { mode: 0o700 })
      .runCmd('echo 1 > a/one && echo 2 > two && echo 3 > three')
      .rename('two', 'a/b/two')
      .remove('three')
      .makeSymlink('a/b/two', 'link')
      .makeSymlink('a/one', 'link', { force: true })
      .runCmd('git init -q repo && cd repo && git -c user.name=a -c user.email=b commit -q --allow-empty -m first')
      .gitClone('/home/user/repo', 'clone'),
    name
  )
  const s = await create({}, name)
  assert.equal(await run(s, 'readlink link; cat link a/b/two; stat -c %a "c d"; ls; git -C clone log --format=%s'), 'a/one\n1\n2\n700\na\nc d\nclone\nlink\nrepo\nfirst\n')
}, slow)

feature('templates/from-image', async () => {
  const name = named('image')
  await build(from().fromImage('debian:bookworm').runCmd('whoami > who; . /etc/os-release; echo $ID > id'), name)
  const s = await create({}, name)
  assert.equal(await run(s, 'cat who id; whoami; pwd; sudo whoami'), 'user\ndebian\nuser\n/home/user\nroot\n')
}, slow)

feature('templates/from-template', async () => {
  await theWhole()
  const name = named('child')
  await build(from().fromTemplate(named('whole')).runCmd('whoami > /tmp/child; echo $GREETING >> /tmp/child'), name)
  const s = await create({}, name)
  assert.equal(await run(s, 'cat /tmp/child /opt/first; whoami; pwd'), 'builder\nhello\nfirst\nbuilder\n/srv/app\n')
}, slow)

feature('templates/from-dockerfile', async () => {
  const name = named('dockerfile')
  const dockerfile = `
FROM debian:bookworm
ARG COLOUR=blue
ENV SHAPE="round" \\
    SIZE=3
WORKDIR /srv
COPY notes.txt web.py ./
RUN echo "$COLOUR $SHAPE $SIZE $(whoami)" > out && \\
    ls >> out
`
  await build(from().fromDockerfile(dockerfile), name)
  const s = await create({}, name)
  assert.equal(await run(s, 'cat /srv/out; whoami; pwd; echo $SHAPE'), 'blue round 3 root\nnotes.txt\nout\nweb.py\nuser\n/srv\nround\n')
}, slow)

feature('templates/registry-login', async () => {
  const image = `${registry}/private/debian:bookworm`
  const name = named('private')
  await build(from().fromImage(image, { username: 'ada', password: 'not a secret' }).runCmd('true'), name)
  await create({}, name)
  const key = { type: 'service_account', client_email: 'ada@e2e.example' }
  await build(from().fromGCPRegistry(image, { serviceAccountJSON: key }), name)

  const wrong = await failing(
    from().fromImage(image, { username: 'ada', password: 'wrong' }).runCmd('true'), // a wrong password
    'private-wrong'
  )
  pointsAt(wrong, 'a wrong password')
  const none = await failing(
    from().fromImage(image), // no password
    'private-none'
  )
  pointsAt(none, 'no password')
}, slow)

feature('templates/registry-aws', async () => {
  const err = await failing(
    from().fromAWSRegistry('123456789012.dkr.ecr.us-east-1.amazonaws.com/a:b', { accessKeyId: 'AKIAEXAMPLE', secretAccessKey: 'x', region: 'us-east-1' }), // made-up keys
    'aws'
  )
  assert.match(err.message, /^AWS /)
  pointsAt(err, 'made-up keys')
}, slow)

feature('templates/start', async () => {
  const name = named('started')
  await build(
    from().fromTemplate('base').copy('web.py', 'web.py').setStartCmd('echo run >> started; python3 web.py 0.0.0.0 8000', e2b.waitForPort(8000)),
    name
  )
  for (let i = 0; i < 3; i++) {
    const s = await create({}, name)
    const res = await new Promise((resolve, reject) => {
      const headers = { 'E2b-Sandbox-Id': s.sandboxId, 'E2b-Sandbox-Port': '8000' }
      http.get({ hostname: server.hostname, port: server.port, path: '/', headers }, resolve).on('error', reject)
    })
    assert.equal(res.statusCode, 200, 'the first request is answered')
    assert.equal((await res.toArray()).join('').startsWith('hello from '), true)
    assert.equal(await s.files.read('started'), 'run\n', 'it was started once, when the template was built')
  }
}, slow)

feature('templates/ready', async () => {
  const command = 'sleep 1; touch /tmp/done; python3 -m http.server 8000'
  for (const [what, ready] of Object.entries({
    url: e2b.waitForURL('http://localhost:8000/', 200),
    process: e2b.waitForProcess('python3'),
    file: e2b.waitForFile('/tmp/done'),
    timeout: e2b.waitForTimeout(2_000),
  })) {
    const name = named(`ready-${what}`)
    await build(from().fromTemplate('base').setStartCmd(command, ready), name)
    const s = await create({}, name)
    const answers = () => run(s, 'curl -s -o /dev/null -w "%{http_code}" localhost:8000/ || true')
    if (what === 'url') assert.equal(await answers(), '200', 'at once')
    else await eventually(async () => (await answers()) === '200', `the server, ready by ${what}`)
  }
}, slow)

feature('templates/start-ends', async () => {
  const name = named('start-ends')
  await build(from().fromTemplate('base').setStartCmd('echo once > /tmp/start', e2b.waitForTimeout(1_000)), name)
  assert.equal(await (await create({}, name)).files.read('/tmp/start'), 'once\n')
  const err = await failing(
    from()
      .fromTemplate('base')
      .runCmd('true')
      .setStartCmd('./no/such/program', e2b.waitForTimeout(3_000)), // the start
    'start-fails'
  )
  pointsAt(err, 'the start')
}, slow)

feature('templates/cache', async () => {
  await theWhole()
  const again = await build(everything(), named('again'))
  assert.match(again.text, /^CACHED \[builder 15\/15\] /m)
  assert.doesNotMatch(again.text, /\[stdout\]: said and done/)
  // One changed step: what comes before it is known, what comes after is not.
  const changed = await build(from().fromBaseImage().runCmd('echo one').runCmd(`echo ${named('cache')}`).runCmd('echo three'), named('cache'))
  const text = (await build(from().fromBaseImage().runCmd('echo one').runCmd(`echo ${named('other')}`).runCmd('echo three'), named('cache'))).text
  assert.match(changed.text, /^\[builder 3\/3\] \[stdout\]: three$/m)
  assert.match(text, /^CACHED \[builder 1\/3\] /m)
  assert.match(text, /^\[builder 2\/3\] /m)
  assert.match(text, /^\[builder 3\/3\] \[stdout\]: three$/m)
}, slow)

feature('templates/force', async () => {
  const template = () => from().fromTemplate('base').runCmd('echo one')
  await build(template().runCmd('echo two'), named('forced'))
  const partly = await build(template().skipCache().runCmd('echo two'), named('forced'))
  assert.match(partly.text, /^CACHED \[builder 1\/2\] /m)
  assert.match(partly.text, /^\[builder 2\/2\] \[stdout\]: two$/m)
  const wholly = await build(template().runCmd('echo two'), named('forced'), { skipCache: true })
  assert.doesNotMatch(wholly.text, /CACHED/)
  assert.match(wholly.text, /^\[builder 1\/2\] \[stdout\]: one$/m)
}, slow)

feature('templates/logs', async () => {
  const { logs, text } = await theWhole()
  assert.match(text, /^\[base\] FROM e2bdev\/base/m)
  assert.match(text, /^(CACHED )?\[builder 10\/15\] RUN echo "\$\(whoami\) /m)
  assert.match(text, /^\[builder 15\/15\] \[stdout\]: said and done$/m)
  assert.match(text, /^\[builder 15\/15\] \[stderr\]: moaned$/m)
  assert.match(text, /^\[finalize\] /m)
  for (const l of logs) {
    assert.ok(['debug', 'info', 'warn', 'error'].includes(l.level), l.level)
    assert.ok(Math.abs(Date.now() - l.timestamp) < 3_600_000, String(l.timestamp))
  }
  const many = await build(from().fromTemplate('base').skipCache().runCmd('for i in $(seq 1000); do echo line $i; done'), named('many'))
  const numbers = [...many.text.matchAll(/\[stdout\]: line (\d+)$/gm)].map((m) => Number(m[1]))
  assert.deepEqual(numbers, Array.from({ length: 1000 }, (_, i) => i + 1), 'every line once and in order')
}, slow)

feature('templates/failure', async () => {
  const err = await failing(
    from()
      .fromBaseImage()
      .runCmd('true')
      .runCmd('echo because >&2; exit 7') // the second of three
      .runCmd('true'),
    'fails'
  )
  assert.match(err.message, /exit 7/)
  pointsAt(err, 'the second of three')

  const copied = await failing(
    from()
      .fromBaseImage()
      .copy(['notes.txt', 'web.py'], 'both/')
      .runCmd('./no/such/program'), // after two copies
    'fails-later'
  )
  pointsAt(copied, 'after two copies')
}, slow)

feature('templates/failure-kinds', async () => {
  for (const [what, remark, template] of [
    ['workdir', 'a file', from().fromBaseImage().runCmd('true')
      .setWorkdir('/etc/passwd')], // a file
    ['user', 'no name', from().fromBaseImage().runCmd('true')
      .setUser('; exit 1')], // no name
    ['template', 'not a template', from()
      .fromTemplate('no-such-template').runCmd('true')], // not a template
    ['image', 'not an image', from()
      .fromImage('debian:no-such-tag').runCmd('true')], // not an image
    ['dockerfile', 'a Dockerfile', from()
      .fromDockerfile('FROM debian:bookworm\nRUN no-such-program')], // a Dockerfile
  ]) {
    pointsAt(await failing(template, `fails-${what}`), remark)
  }
}, slow)

feature('templates/unknown-user', async () => {
  const err = await failing(from().fromBaseImage().runCmd('whoami', { user: 'root123' }), 'nobody')
  assert.ok(err.message.includes("failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'"), err.message)
}, slow)

feature('templates/background', async () => {
  const info = await Template.buildInBackground(from().fromTemplate('base').skipCache().runCmd('sleep 3; echo slept'), named('background'))
  built.add(info.templateId)
  assert.equal((await Template.getBuildStatus(info)).status, 'building')
  assert.equal(await Template.exists(named('background')), true)
  const end = await eventually(async () => {
    const s = await Template.getBuildStatus(info, { logsOffset: 0 })
    return s.status === 'building' || s.status === 'waiting' ? undefined : s
  }, 'the end of the build', 60_000)
  assert.equal(end.status, 'ready')
  assert.ok(end.logEntries.length > 2)
  const rest = await Template.getBuildStatus(info, { logsOffset: 2 })
  assert.deepEqual(rest.logEntries[0].message, end.logEntries[2].message)
  await create({}, named('background'))

  const bad = await Template.buildInBackground(from().fromTemplate('base').runCmd('true').runCmd('exit 1'), named('background'))
  const failed = await eventually(async () => {
    const s = await Template.getBuildStatus(bad)
    return s.status === 'error' ? s : undefined
  }, 'the failure', 60_000)
  assert.equal(failed.reason.step, '2')
  assert.ok(failed.reason.logEntries.length > 0, 'the reason comes with what was logged')
  await create({}, named('background')) // the build before is still there
}, slow)

feature('templates/supersede', async () => {
  const name = named('superseded')
  const first = await Template.buildInBackground(from().fromTemplate('base').skipCache().runCmd('sleep 60'), name)
  built.add(first.templateId)
  await eventually(async () => /RUN sleep 60/.test((await Template.getBuildStatus(first)).logEntries.map((l) => l.message).join()), 'the first build', 60_000)
  const second = await build(from().fromTemplate('base').runCmd('echo newer > which'), name)
  assert.equal(second.templateId, first.templateId)
  const end = await Template.getBuildStatus(first)
  assert.equal(end.status, 'error')
  assert.equal(await (await create({}, name)).files.read('which'), 'newer\n')
}, slow)

feature('templates/size', async () => {
  const { templateId } = await theWhole()
  const info = await (await theBox()).getInfo()
  assert.deepEqual([info.cpuCount, info.memoryMB], [1, 512])
  const [t] = (await (await api('GET', '/templates')).json()).filter((t) => t.templateID === templateId)
  assert.deepEqual([t.cpuCount, t.memoryMB, t.buildStatus], [1, 512, 'ready'])
  for (const size of [{ cpuCount: 1000 }, { memoryMB: 2 ** 30 }, { memoryMB: 100 }, { memoryMB: 513 }]) {
    const err = await rejection(Template.build(from().fromTemplate('base'), named('size'), size))
    assert.match(err.message, new RegExp(`^400: ${Object.keys(size)[0]} must be`))
  }
}, slow)

feature('templates/names', async () => {
  const { templateId } = await theWhole()
  const t = await (await api('GET', `/templates/${templateId}`)).json()
  const [full] = t.names
  assert.ok(full.endsWith(`/${named('whole')}`), full)
  assert.equal(await Template.exists(full), true)
  assert.equal(await Template.exists(`${full}:default`), true)
  assert.equal(await Template.exists(`${full}:no-such-tag`), false)
  assert.equal(await Template.exists(`somebody/${named('whole')}`), false)
  await create({}, full)
  await create({}, templateId)
  const again = await build(everything(), full)
  assert.equal(again.templateId, templateId, 'the same name is the same template')
  const foreign = await rejection(Template.build(from().fromTemplate('base'), `somebody/${named('foreign')}`))
  assert.match(foreign.message, /^400: .*namespace 'somebody' must match your team/)
  for (const bad of ['with space', 'a/b/c', 'a:', `x:${again.buildId}`]) {
    assert.match((await rejection(Template.build(from().fromTemplate('base'), bad))).message, /^400: /, bad)
  }
}, slow)

feature('templates/tags', async () => {
  const name = named('tagged')
  const saying = (word) => from().fromTemplate('base').runCmd(`echo ${word} > word`)
  const word = async (ref) => (await create({}, ref)).files.read('word')
  const one = await build(saying('one'), `${name}:v1`, { tags: ['stable'] })
  assert.deepEqual([...one.tags].sort(), ['stable', 'v1'])
  await assert.rejects(Sandbox.create(name), /no build that is ready/, 'there is no default yet')
  const two = await build(saying('two'), name, { tags: ['v2', 'default'] })
  assert.equal(two.templateId, one.templateId)
  assert.deepEqual([await word(`${name}:v1`), await word(`${name}:stable`), await word(name), await word(`${name}:v2`)], ['one\n', 'one\n', 'two\n', 'two\n'])
  assert.equal(await word(`${name}:${one.buildId}`), 'one\n', 'a build goes by its id')

  const moved = await Template.assignTags(`${name}:v1`, ['stable', 'Production'])
  assert.deepEqual([moved.buildId, [...moved.tags].sort()], [one.buildId, ['production', 'stable']])
  await Template.assignTags(`${name}:v2`, 'stable')
  assert.equal(await word(`${name}:stable`), 'two\n')
  const tags = await Template.getTags(name)
  assert.deepEqual(tags.map((t) => t.tag).sort(), ['default', 'production', 'stable', 'v1', 'v2'])
  assert.ok(tags.every((t) => t.createdAt instanceof Date))
  assert.equal(tags.find((t) => t.tag === 'production').buildId, one.buildId)
  assert.equal((await Template.getTags(one.templateId)).length, tags.length)

  await Template.removeTags(name, ['production', 'v1'])
  await assert.rejects(Sandbox.create(`${name}:production`), /tag 'production' does not exist/)
  assert.equal(await word(`${name}:${one.buildId}`), 'one\n')
  assert.match((await rejection(Template.removeTags(name, 'default'))).message, /^400: .*cannot be removed/)
  for (const bad of [':invalid-tag', `${name}:`, one.buildId]) {
    assert.match((await rejection(Template.assignTags(name, bad))).message, /^400: /, bad)
  }
  assert.match((await rejection(Template.assignTags(`${name}:never`, 'x'))).message, /^404: /)
  assert.match((await rejection(Template.getTags(named('nothing')))).message, /^404: /)
}, slow)

feature('templates/delete', async () => {
  const name = named('deleted')
  const { templateId } = await build(from().fromTemplate('base'), name)
  const s = await create({}, name)
  const refused = await api('DELETE', `/templates/${templateId}`)
  assert.equal(refused.status, 400, 'a sandbox of it runs')
  await s.kill()
  assert.equal((await api('DELETE', `/templates/${templateId}`)).status, 204)
  assert.equal((await api('DELETE', `/templates/${templateId}`)).status, 404)
  assert.equal(await Template.exists(name), false)
  await assert.rejects(Sandbox.create(name), /not found/)
  built.delete(templateId)
}, slow)
