// What every file of the suite needs: the client under test, one sandbox per
// file, and a record of what worked.
//
// The version comes from CLIENT, and the package from PACKAGE unless it is e2b;
// results go, one JSON object per line, to the file RESULTS.

import assert from 'node:assert/strict'
import { appendFileSync, readFileSync } from 'node:fs'
import { after, test } from 'node:test'

export const version = process.env.CLIENT
const name = process.env.PACKAGE ?? 'e2b'
export const e2b = await import(`${name}-${version}`)
export const { Sandbox } = e2b

// Everything this run makes carries this, so that what is left over is found.
export const mark = { e2e: process.env.RUN ?? `by-hand-${process.pid}` }
export const server = new URL(process.env.E2B_API_URL)

const made = []

/** Creates a sandbox that the suite kills when the file is done. */
export async function create(opts = {}, template = 'base') {
  const sandbox = await Sandbox.create(template, { timeoutMs: 180_000, ...opts, metadata: { ...mark, ...opts.metadata } })
  made.push(sandbox)
  return sandbox
}

let shared

/** The sandbox that the tests of one file share. */
export function sandbox() {
  shared ??= create()
  return shared
}

after(async () => {
  await Promise.all(made.map((s) => s.kill().catch(() => {})))
})

/** Tests one feature: a row of the conformance table. */
export function feature(name, fn, { since, timeout = 30_000 } = {}) {
  if (since && older(version, since)) return
  test(name, { timeout }, async () => {
    const start = performance.now()
    let error
    try {
      await within(fn(), timeout - 500)
    } catch (err) {
      error = err
    }
    record(name, { ok: !error, ms: Math.round(performance.now() - start), error: error && text(error) })
    if (error) throw error
  })
}

/**
 * Tests that something this version does not have is refused with 400 and a
 * reason. It fails as soon as the server has it: then it needs a test.
 */
export function later(name, fn, opts) {
  feature(name, async () => {
    const err = await rejection(fn())
    assert.match(err.message, /^400: .*not available in this version/)
  }, opts)
}

/** Waits for a promise to fail and returns what it failed with. */
export async function rejection(promise) {
  try {
    await promise
  } catch (err) {
    return err
  }
  assert.fail('this works, although it should be refused')
}

/**
 * Polls until fn returns something true, for ten seconds. What it waits for
 * may be a function, asked only when the time is up.
 */
export async function eventually(fn, what, ms = 10_000) {
  const end = Date.now() + ms
  for (;;) {
    const got = await fn()
    if (got) return got
    if (Date.now() > end) assert.fail(`${what instanceof Function ? what() : what}: not within ${ms} ms`)
    await sleep(50)
  }
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

export const guest = (name) => readFileSync(new URL(`../guest/${name}`, import.meta.url), 'utf8')

function record(feature, result) {
  const line = { client: name === 'e2b' ? 'js' : `${name}-js`, version, feature, ...result }
  if (process.env.RESULTS) appendFileSync(process.env.RESULTS, JSON.stringify(line) + '\n')
}

function within(promise, ms) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no end within ${ms} ms`)), ms)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

function text(err) {
  return `${err.name}: ${err.message}`.replace(/\s+/g, ' ').slice(0, 300)
}

function older(a, b) {
  const [x, y] = [a, b].map((v) => v.split('.').map(Number))
  const i = x.findIndex((n, i) => n !== y[i])
  return i >= 0 && x[i] < y[i]
}
