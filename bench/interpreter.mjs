// What a program sees that runs code by the published package of E2B's code
// interpreter, and by a Jupyter server on the same machine, which is asked by its
// own protocol: a kernel instead of a sandbox, a WebSocket instead of a stream.
// Prints one JSON object with arrays of milliseconds, and megabytes.
//
//   node --experimental-websocket interpreter.mjs ROUNDS JUPYTER_URL TOKEN
import { randomUUID } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'

import { Sandbox } from '../e2e/js/node_modules/code-interpreter-2.8.0/dist/index.mjs'

const [rounds, jupyter, token] = [Number(process.argv[2]), process.argv[3], process.argv[4]]
const times = 20 // that one context runs something
const ms = async (f) => {
  const began = performance.now()
  const value = await f()
  return [performance.now() - began, value]
}
const check = (printed) => {
  if (printed !== '1\n') throw new Error(`print(1) printed ${JSON.stringify(printed)}`)
}

// ours runs code in sandboxes, each made when another one waits again.
async function ours() {
  const out = { create: [], first: [], print: [], memory: [] }
  const once = async (sandbox) => check((await sandbox.runCode('print(1)')).logs.stdout.join(''))
  for (let i = -1; i < rounds; i++) { // the first warms up
    const [created, sandbox] = await ms(() => Sandbox.create())
    const [first] = await ms(() => once(sandbox))
    if (i >= 0) {
      out.create.push(created)
      out.first.push(first)
    }
    if (i >= 0 && i % 5 === 0) {
      await pause(3000) // until another sandbox waits again
      for (let n = 0; n < times; n++) out.print.push((await ms(() => once(sandbox)))[0])
      let metrics = []
      while (metrics.length === 0) {
        await pause(2000)
        metrics = await sandbox.getMetrics()
      }
      out.memory.push(metrics.at(-1).memUsed / 1e6)
    }
    await sandbox.kill()
    await pause(3000) // the next one is made meanwhile
  }
  return out
}

// theirs runs code in kernels of a Jupyter server, each started anew: it has none
// that wait.
async function theirs() {
  const out = { first: [], print: [] }
  const call = async (method, path) => {
    const response = await fetch(`${jupyter}/api/${path}`, { method, headers: { authorization: `token ${token}` } })
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status}`)
    return method === 'DELETE' ? null : response.json()
  }
  for (let i = -1; i < rounds; i++) {
    const began = performance.now()
    const { id } = await call('POST', 'kernels')
    const socket = new WebSocket(`${jupyter.replace('http', 'ws')}/api/kernels/${id}/channels?token=${token}`)
    await new Promise((resolve, reject) => Object.assign(socket, { onopen: resolve, onerror: reject }))
    const once = () =>
      new Promise((resolve, reject) => {
        const msgID = randomUUID()
        let printed = ''
        let replied = false
        let idle = false
        socket.onmessage = ({ data }) => {
          const message = JSON.parse(data)
          if (message.parent_header.msg_id !== msgID) return
          if (message.msg_type === 'stream') printed += message.content.text
          replied ||= message.msg_type === 'execute_reply'
          idle ||= message.msg_type === 'status' && message.content.execution_state === 'idle'
          if (replied && idle) resolve(printed)
        }
        socket.onclose = reject
        const header = { msg_id: msgID, msg_type: 'execute_request', session: id, username: '', version: '5.3', date: new Date().toISOString() }
        const content = { code: 'print(1)', silent: false, store_history: true, user_expressions: {}, allow_stdin: false, stop_on_error: true }
        socket.send(JSON.stringify({ header, parent_header: {}, metadata: {}, content, buffers: [], channel: 'shell' }))
      })
    check(await once())
    if (i >= 0) out.first.push(performance.now() - began)
    if (i >= 0 && i % 5 === 0) for (let n = 0; n < times; n++) out.print.push(await ms(async () => check(await once())).then(([took]) => took))
    socket.onclose = null
    socket.close()
    await call('DELETE', `kernels/${id}`)
    await pause(500)
  }
  return out
}

console.log(JSON.stringify({ ours: await ours(), theirs: await theirs() }))
