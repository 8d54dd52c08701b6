// One connection by a driver of Node's: DRIVER FORM, where the form is a URL or an object of options.
// The drivers lie in $NODE_PACKAGES.
import { createRequire } from 'node:module'

const [driver, form] = process.argv.slice(2)
const require = createRequire(process.env.NODE_PACKAGES + '/')
const options = form.startsWith('{') ? new Function('return ' + form)() : form
const sql = "select current_user || ' ' || current_database() as said"

if (driver === 'node-postgres') {
  const { Client } = require('pg')
  const client = new Client(options)
  await client.connect()
  console.log((await client.query(sql)).rows[0].said)
  await client.end()
} else {
  const postgres = require('postgres')
  const client = postgres(options, { max: 1, connect_timeout: 5 })
  console.log((await client.unsafe(sql))[0].said)
  await client.end()
}
