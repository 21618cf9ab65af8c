// What a program that uses E2B's published JavaScript SDK sees. Prints one JSON
// object with arrays of milliseconds. `sdk.mjs ROUNDS cold` measures creates
// only, of a server that makes nothing ahead.
import { setTimeout as pause } from 'node:timers/promises'

import { Sandbox } from '../e2e/js/node_modules/e2b-2.51.0/dist/index.mjs'

const rounds = Number(process.argv[2] ?? 20)
const cold = process.argv[3] === 'cold'
const ms = async (f) => {
  const began = performance.now()
  const value = await f()
  return [performance.now() - began, value]
}

const out = { create: [], first: [], kill: [], burst: [], run: [] }
await (await Sandbox.create()).kill() // connections and code are warm after it
for (let i = 0; i < rounds; i++) {
  const began = performance.now()
  const [created, sandbox] = await ms(() => Sandbox.create())
  await sandbox.commands.run('true')
  out.create.push(created)
  out.first.push(performance.now() - began)
  out.kill.push((await ms(() => sandbox.kill()))[0])
  if (!cold) await pause(500) // the next one is made meanwhile
}
if (cold) {
  console.log(JSON.stringify(out))
  process.exit(0)
}

// The first burst tells the server how many to have ready.
for (const measured of [false, true]) {
  const made = await Promise.all(Array.from({ length: 20 }, () => ms(() => Sandbox.create())))
  if (measured) out.burst = made.map(([took]) => took)
  await Promise.all(made.map(([, sandbox]) => sandbox.kill()))
  await pause(measured ? 1000 : 10_000)
}

const sandbox = await Sandbox.create()
for (let i = 0; i < 5 * rounds; i++) out.run.push((await ms(() => sandbox.commands.run('true')))[0])
await sandbox.kill()
console.log(JSON.stringify(out))
