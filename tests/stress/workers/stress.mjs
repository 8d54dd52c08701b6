// The worker for node-postgres: a client per client. The driver lies in $NODE_PACKAGES.
import { createRequire } from 'node:module'

const { Client } = createRequire(process.env.NODE_PACKAGES + '/')('pg')
const [driver, host, port, user, password, ...numbers] = process.argv.slice(2)
const [clients, seconds, session, leaves, seed] = numbers.map(Number)
const end = Date.now() + seconds * 1000

const say = (line) => process.stdout.write(line.replace(/\s+/g, ' ').trim() + '\n')
const over = () => Date.now() > end
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))
const LOST = new Set([undefined, '08006', '57P01', '57P02'])
// The driver's own errors have codes of the system.
const sqlstate = (error) => (/^[0-9A-Z]{5}$/.test(error.code ?? '') && error.severity ? error.code : undefined)

class Random {
  constructor(seed) {
    this.state = seed >>> 0
  }

  // mulberry32
  next() {
    this.state = (this.state + 0x6d2b79f5) >>> 0
    let t = Math.imul(this.state ^ (this.state >>> 15), this.state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }

  below(n) {
    return Math.floor(this.next() * n)
  }

  pick(list) {
    return list[this.below(list.length)]
  }
}

// One client: its name, its connection, and what it is to find in its session.
class Worker {
  constructor(number) {
    this.name = `${driver}-${seed}-${number}`
    this.database = ['first', 'second'][number % 2]
    this.random = new Random(seed * 1000 + number)
    this.number = this.operations = 0
  }

  async run() {
    while (!over()) {
      try {
        await this.session()
      } catch (error) {
        say(`error: ${sqlstate(error) ?? '-'} ${this.doing}: ${error.code ?? ''} ${error.message}`)
        await pause(this.random.below(300))
      }
    }
  }

  async session() {
    this.doing = 'connect'
    this.startPath = this.path = this.random.pick([null, null, 'north', 'south'])
    this.title = this.name
    this.client = new Client({
      host, port: Number(port), user, password, database: this.database, application_name: this.title, ssl: false,
      options: this.startPath ? `-c search_path=${this.startPath}` : undefined,
    })
    // What breaks between two statements shows at the next.
    this.client.on('error', () => {})
    await this.client.connect()
    try {
      for (let n = 1 + this.random.below(session); n > 0 && !over() && this.client; n--) {
        const work = this.choose()
        this.doing = work.name
        await work.call(this)
        this.operations++
      }
    } finally {
      await this.leave()
    }
  }

  choose() {
    let n = this.random.below(WORK.reduce((sum, [weight]) => sum + weight, 0))
    return WORK.find(([weight]) => (n -= weight) < 0)[1]
  }

  async leave() {
    if (this.client && this.random.below(10) === 0) this.client.connection.stream.destroy()
    // The driver never ends a connection that has ended already.
    await Promise.race([this.client?.end().catch(() => {}), pause(5000)])
  }

  nextName() {
    return `${this.name}-${++this.number}`
  }

  same(what, got, expected) {
    const [one, other] = [got, expected].map((value) => JSON.stringify(value))
    if (one !== other) say(`wrong: ${this.name}: ${this.doing}, ${what}: ${one.slice(0, 300)} instead of ${other.slice(0, 300)}`)
  }

  async row(text, values, name) {
    return (await this.client.query({ text, values, name })).rows[0]
  }

  async fails(promise, code) {
    try {
      await promise
    } catch (error) {
      if (error.code !== code) throw error
      return
    }
    say(`wrong: ${this.name}: ${this.doing}: no error ${code}`)
  }

  // Tells what became of a token's rows; the body sets `sent` to false while nothing that commits has been sent.
  async token(rows, fails, body) {
    const token = { name: this.nextName(), sent: true }
    let outcome = 'failed'
    try {
      await body(token)
      if (!fails) outcome = 'acked'
    } catch (error) {
      if (token.sent && LOST.has(sqlstate(error))) outcome = 'unknown'
      throw error
    } finally {
      say(`${outcome} ${token.name} ${rows}`)
    }
  }

  // Selects that name themselves.

  async literal() {
    const name = this.nextName()
    this.same('literal', await this.row(`select '${name}' as "${name}"`), { [name]: name })
  }

  async shared() {
    const which = `text ${this.random.below(30)}`
    const value = this.nextName()
    const name = leaves && this.random.below(2) ? which : undefined
    this.same('shared text', await this.row(`select '${which}' as which, $1::text as value`, [value], name), { which, value })
  }

  async together() {
    // The driver sends them one after another, and takes them all at once.
    const values = Array.from({ length: 5 }, () => this.nextName())
    const rows = await Promise.all(values.map((value) => this.row('select $1::text as value', [value])))
    this.same('together', rows, values.map((value) => ({ value })))
  }

  async thing() {
    const number = 1 + this.random.below(100)
    const row = await this.row('select * from public.thing where id = $1', [number])
    this.same('thing', [Number(row.id), row.place], [number, `${this.database}-${number}`])
  }

  async shifting() {
    const number = 1 + this.random.below(100)
    try {
      const row = await this.row('select value from public.shifting where id = $1', [number], leaves ? 'shifting' : undefined)
      this.same('shifting', String(row.value), String(number))
    } catch (error) {
      if (error.code !== '0A000') throw error
    }
  }

  async large() {
    const piece = this.nextName() + '.'
    const times = this.random.pick([1000, 20000])
    const row = await this.row('select repeat($1, $2) as text', [piece, times])
    this.same('large', row.text, piece.repeat(times))
  }

  async wrongStatement() {
    await this.fails(this.row('select 1/$1::int', [0]), '22012')
    await this.fails(this.row('select * from nothing'), '42P01')
  }

  // Inserts.

  async insert() {
    await this.token(1, false, (token) => this.row('insert into public.token values ($1)', [token.name]))
  }

  async several() {
    const fails = this.random.below(2) === 0
    await this.token(2, fails, async (token) => {
      const insert = `insert into public.token values ('${token.name}')`
      const done = this.client.query(`${insert}; ${insert}; select 1/${fails ? 0 : 1}`)
      await (fails ? this.fails(done, '22012') : done)
    })
  }

  async transaction() {
    const rows = 1 + this.random.below(4)
    const commits = this.random.below(3) > 0
    await this.token(rows, !commits, async (token) => {
      token.sent = false
      await this.client.query('begin')
      for (let n = 1; n <= rows; n++) {
        await this.row('insert into public.token values ($1)', [token.name])
        const row = await this.row('select count(*)::int as count from public.token where token = $1', [token.name])
        this.same('own rows', row.count, n)
        if (this.random.below(3) === 0) await this.savepoint(token)
      }
      token.sent = commits
      const done = await this.client.query(commits ? 'commit' : 'rollback')
      this.same('end', done.command, commits ? 'COMMIT' : 'ROLLBACK')
    })
  }

  async savepoint(token) {
    await this.client.query('savepoint one')
    await this.fails(this.client.query(`insert into public.token values ('${token.name}'); select 1/0`), '22012')
    await this.client.query('rollback to one')
  }

  async abandoned() {
    await this.token(1, true, async (token) => {
      token.sent = false
      await this.client.query('begin')
      await this.row('insert into public.token values ($1)', [token.name])
      this.client.connection.stream.destroy()
      this.client = null
    })
  }

  async abandonedAtWork() {
    const name = this.nextName()
    this.client.query(`insert into public.token select '${name}' from pg_sleep(0.3)`).catch(() => {})
    await pause(this.random.below(20))
    this.client.connection.stream.destroy()
    this.client = null
    say(`unknown ${name} 1`)
  }

  async sequence() {
    await this.client.query('begin')
    const drawn = await this.row("select nextval('public.ticket') as drawn")
    this.same('currval', await this.row("select currval('public.ticket') as drawn"), drawn)
    await this.client.query('commit')
  }

  // By another connection, until it is heard: directly, too, a request that comes before its statement does nothing.
  async cancel() {
    let ended = false
    const sleep = this.fails(this.client.query('select pg_sleep(20)'), '57014').finally(() => (ended = true))
    sleep.catch(() => {})
    while (!ended) {
      await pause(50)
      if (!ended) await this.cancelOnce()
    }
    await sleep
    await this.client.query('select 1').catch((error) => {
      if (error.code !== '57014') throw error
    })
  }

  cancelOnce() {
    return new Promise((resolve) => {
      const { connection } = new Client({ host, port: Number(port), user, ssl: false })
      connection.on('error', resolve)
      connection.stream.on('close', resolve)
      connection.on('connect', () => connection.cancel(this.client.processID, this.client.secretKey))
      if (host.startsWith('/')) connection.connect(`${host}/.s.PGSQL.${port}`)
      else connection.connect(Number(port), host)
    })
  }

  // The session.

  async setting() {
    const act = this.random.below(4)
    if (act === 0) {
      this.path = this.random.pick(['north', 'south'])
      await this.client.query(`set search_path to ${this.path}`)
    } else if (act === 1) {
      this.title = this.nextName()
      await this.client.query(`select 1; set application_name = '${this.title}'`)
    } else if (act === 2) {
      this.path = this.startPath
      await this.client.query('reset search_path')
    } else {
      this.path = this.startPath
      this.title = this.name
      await this.client.query('reset all')
    }
    await this.settings()
  }

  async settings() {
    const shown = "current_setting('search_path') as path, current_setting('application_name') as title"
    const text = `select name, ${shown} from spot where 1 = $1::int`
    const expected = { name: this.path ?? 'public', path: this.path ?? '"$user", public', title: this.title }
    this.same('settings', await this.row(text, [1], this.random.below(2) ? 'settings' : undefined), expected)
  }

  async temporary() {
    const name = this.nextName()
    await this.client.query(`create temporary table own as select '${name}'::text as name`)
    for (let n = 0; n < 3; n++) this.same('temporary table', await this.row('select name from own where 1 = $1', [1]), { name })
    await this.client.query('drop table own')
  }

  async lock() {
    const number = 1 + this.random.below(5)
    await this.row('select pg_advisory_lock($1)', [number])
    await this.row('update public.holder set client = $1 where lock = $2', [this.name, number])
    for (let n = 0; n < 3; n++) {
      this.same('locked', await this.row('select client from public.holder where lock = $1', [number]), { client: this.name })
    }
    this.same('unlock', await this.row('select pg_advisory_unlock($1) as done', [number]), { done: true })
  }

  async listen() {
    const payload = this.nextName()
    const heard = []
    const hear = (notification) => heard.push(notification)
    this.client.on('notification', hear)
    await this.client.query('listen stress')
    await this.row("select pg_notify('stress', $1)", [payload])
    await this.client.query('select 1')
    const own = heard.filter((notification) => notification.payload === payload)
    this.same('own notification', own.map(({ processId, channel }) => [processId, channel]), [[this.client.processID, 'stress']])
    await this.client.query('unlisten stress')
    this.client.off('notification', hear)
  }
}

const { prototype: does } = Worker
const STATELESS = [
  [10, does.literal], [10, does.shared], [4, does.together], [8, does.thing], [4, does.shifting], [2, does.large],
  [5, does.wrongStatement], [8, does.insert], [4, does.several], [8, does.transaction], [1, does.abandoned],
  [1, does.abandonedAtWork], [2, does.sequence], [1, does.cancel],
]
const STATEFUL = [[8, does.setting], [8, does.settings], [2, does.temporary], [2, does.lock], [2, does.listen]]
const WORK = leaves ? [...STATELESS, ...STATEFUL] : STATELESS

const all = Array.from({ length: clients }, (_, number) => new Worker(number))
await Promise.all(all.map((worker) => worker.run()))
say(`done ${all.reduce((sum, worker) => sum + worker.operations, 0)}`)
process.exit(0)
