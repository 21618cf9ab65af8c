// Stands for the DNS record *.NAME of E2B_DOMAIN, which leads to this machine:
// node --import makes it known to a client that reaches sandboxes by name.

import dns from 'node:dns'

const below = `.${process.env.E2B_DOMAIN.split(':')[0]}`
const { lookup } = dns

dns.lookup = (name, options, callback) => {
  if (!name.endsWith(below)) return lookup(name, options, callback)
  const [how, done] = typeof options === 'function' ? [{}, options] : [options, callback]
  const [address, family] = ['127.0.0.1', 4]
  process.nextTick(() => (how.all ? done(null, [{ address, family }]) : done(null, address, family)))
}
