// Forty connections of one pool of Node's, all held at once: POOL HOST PORT. The packages lie in $NODE_PACKAGES.
import { createRequire } from 'node:module'

const [pool, host, port] = process.argv.slice(2)
const require = createRequire(process.env.NODE_PACKAGES + '/')
const clients = 40
const rounds = 3
const table = `pool_${pool}`
const make = `drop table if exists ${table}; create table ${table} (client int, turn int)`
const options = { host, port: Number(port), user: 'postgres', database: 'postgres' }

/** Lets nobody on until all have come. */
class Barrier {
  constructor () { this.waiting = [] }
  wait () {
    return new Promise((resolve) => {
      this.waiting.push(resolve)
      if (this.waiting.length === clients) for (const go of this.waiting.splice(0)) go()
    })
  }
}
const barrier = new Barrier()

async function atOnce (client) {
  const said = await Promise.all(Array.from({ length: clients }, (_, number) => client(number)))
  for (const one of said) console.log(JSON.stringify(one))
}

const pools = {
  async pg_pool () {
    const { Pool } = require('pg')
    const pool = new Pool({ ...options, max: clients, statement_timeout: 30000, idle_in_transaction_session_timeout: 30000 })
    await pool.query(make)
    await atOnce(async (number) => {
      const said = []
      for (let turn = 0; turn < rounds; turn++) {
        const client = await pool.connect()
        await barrier.wait()
        await client.query('BEGIN')
        await client.query(`insert into ${table} values ($1, $2)`, [number, turn])
        await client.query('COMMIT')
        said.push((await client.query({ name: 'count', text: `select count(*) from ${table} where client = $1`, values: [number] })).rows)
        said.push((await client.query('show statement_timeout')).rows)
        await client.query('select 1 / $1::int', [0]).catch((error) => said.push(error.code))
        await barrier.wait()
        client.release()
      }
      return said
    })
    await pool.end()
  },

  async knex () {
    const knex = require('knex')({ client: 'pg', connection: options, searchPath: ['public', 'pg_catalog'], pool: { min: clients, max: clients } })
    await knex.raw(make)
    await atOnce(async (number) => {
      const said = []
      for (let turn = 0; turn < rounds; turn++) {
        await barrier.wait()
        await knex.transaction(async (transaction) => {
          await transaction(table).insert({ client: number, turn })
          said.push(await transaction(table).where({ client: number }).count())
        }, { isolationLevel: 'read committed' })
        await knex.transaction(async (transaction) => { await transaction.raw('select 1 / ?::int', [0]) }).catch((error) => said.push(error.code))
        said.push((await knex.raw('show search_path')).rows)
      }
      return said
    })
    await knex.destroy()
  },

  async sequelize () {
    const { Sequelize, DataTypes } = require('sequelize')
    const sequelize = new Sequelize('postgres', 'postgres', '', { host, port, dialect: 'postgres', logging: false, timezone: '+02:00', pool: { min: clients, max: clients, acquire: 60000 }, schema: 'public' })
    const Thing = sequelize.define(table, { client: DataTypes.INTEGER, turn: DataTypes.INTEGER, at: DataTypes.DATE }, { timestamps: false })
    await Thing.sync({ force: true })
    await atOnce(async (number) => {
      const said = []
      for (let turn = 0; turn < rounds; turn++) {
        await barrier.wait()
        await sequelize.transaction({ isolationLevel: Sequelize.Transaction.ISOLATION_LEVELS.REPEATABLE_READ }, async (transaction) => {
          await Thing.create({ client: number, turn, at: new Date(0) }, { transaction })
          said.push(await sequelize.query('show timezone', { transaction, plain: true }))
        })
        await sequelize.transaction(async (transaction) => {
          await sequelize.query('select 1 / 0', { transaction })
        }).catch((error) => said.push(error.name))
        said.push(await Thing.count({ where: { client: number } }), (await Thing.findOne({ where: { client: number, turn } })).at)
      }
      return said
    })
    await sequelize.close()
  },

  async typeorm () {
    const { DataSource, EntitySchema } = require('typeorm')
    const Thing = new EntitySchema({ name: 'Thing', tableName: table, columns: { id: { type: Number, primary: true, generated: true }, client: { type: Number }, turn: { type: Number } } })
    const source = new DataSource({ type: 'postgres', ...options, username: 'postgres', entities: [Thing], synchronize: true, dropSchema: false, poolSize: clients, applicationName: 'orm', schema: 'public', installExtensions: false })
    await source.initialize()
    await source.getRepository(Thing).clear()
    await atOnce(async (number) => {
      const said = []
      for (let turn = 0; turn < rounds; turn++) {
        const runner = source.createQueryRunner()
        await runner.connect()
        await barrier.wait()
        await runner.startTransaction('SERIALIZABLE')
        said.push(await runner.query('show transaction_isolation'))
        await runner.rollbackTransaction()
        await runner.startTransaction()
        await runner.manager.save(Thing, { client: number, turn })
        await runner.startTransaction()
        await runner.query('select 1 / $1::int', [0]).catch((error) => said.push(error.code))
        await runner.rollbackTransaction()
        await runner.commitTransaction()
        said.push(await runner.manager.count(Thing, { where: { client: number } }), await runner.query('show application_name'))
        await barrier.wait()
        await runner.release()
      }
      return said
    })
    await source.destroy()
  },

  async postgres_js () {
    const sql = require('postgres')({ ...options, max: clients, onnotice () {}, connection: { search_path: 'public', statement_timeout: 30000 } })
    await sql.unsafe(make)
    await atOnce(async (number) => {
      const said = []
      for (let turn = 0; turn < rounds; turn++) {
        await barrier.wait()
        await sql.begin(async (sql) => {
          await sql`insert into ${sql(table)} values (${number}, ${turn})`
          await sql.savepoint((sql) => sql`select 1 / ${0}::int`).catch((error) => said.push(error.code))
        })
        const own = await sql.reserve()
        await barrier.wait()
        said.push(await own`select count(*) from ${sql(table)} where client = ${number}`, await own`show statement_timeout`)
        await barrier.wait()
        own.release()
      }
      return said
    })
    await sql.end()
  },

  async drizzle () {
    const { drizzle } = require('drizzle-orm/postgres-js')
    const { pgTable, integer } = require('drizzle-orm/pg-core')
    const { sql, eq, count } = require('drizzle-orm')
    const client = require('postgres')({ ...options, max: clients, onnotice () {} })
    const db = drizzle({ client })
    const things = pgTable(table, { client: integer('client'), turn: integer('turn') })
    await client.unsafe(make)
    await atOnce(async (number) => {
      const said = []
      for (let turn = 0; turn < rounds; turn++) {
        await barrier.wait()
        await db.transaction(async (transaction) => {
          await transaction.insert(things).values({ client: number, turn })
          said.push(await transaction.select({ n: count() }).from(things).where(eq(things.client, number)))
        }, { isolationLevel: 'read committed', accessMode: 'read write' })
        await db.transaction(async (transaction) => { await transaction.execute(sql`select 1 / ${0}::int`) }).catch((error) => said.push((error.cause ?? error).code))
        said.push(await db.execute(sql`show transaction_isolation`))
      }
      return said
    })
    await client.end()
  },

  async prisma () {
    const { PrismaClient } = require('./prisma')
    const { PrismaPg } = require('@prisma/adapter-pg')
    const prisma = new PrismaClient({ adapter: new PrismaPg({ ...options, max: clients, statement_timeout: 30000 }) })
    await prisma.$executeRawUnsafe(`drop table if exists ${table}`)
    await prisma.$executeRawUnsafe(`create table ${table} (id serial primary key, client int, turn int)`)
    const within = { isolationLevel: 'ReadCommitted', maxWait: 60000, timeout: 60000 }
    await atOnce(async (number) => {
      const said = []
      for (let turn = 0; turn < rounds; turn++) {
        await barrier.wait()
        await prisma.$transaction(async (transaction) => {
          await transaction.thing.create({ data: { client: number, turn } })
          said.push(await transaction.$queryRaw`show transaction_isolation`)
        }, within)
        await prisma.$transaction(async (transaction) => {
          await transaction.thing.create({ data: { client: number, turn: -1 } })
          await transaction.$queryRaw`select 1 / ${0}::int`
        }, within).catch((error) => said.push(error.code))
        said.push(await prisma.$transaction([prisma.thing.count({ where: { client: number } }), prisma.$queryRaw`show statement_timeout`]))
        said.push(await prisma.thing.findMany({ where: { client: number }, select: { turn: true }, orderBy: { turn: 'asc' } }))
      }
      return said
    })
    await prisma.$disconnect()
  }
}

await pools[pool]()
