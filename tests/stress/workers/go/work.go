package main

import (
	"fmt"
	"math/rand"
	"strings"
	"time"
)

// client is one client of the worker: its name, its connection, and what it is to find in its session.
type client struct {
	args                   arguments
	open                   opener
	random                 *rand.Rand
	name, database, doing  string
	count, operations      int
	startPath, path, title string
	conn                   connection
}

// work is something that a client does: how often, and whether it leaves something in the session for as long as that lasts.
type work struct {
	name   string
	weight int
	leaves bool
	do     func(*client) error
}

var works = []work{
	{"literal", 10, false, (*client).literal}, {"shared", 10, false, (*client).shared}, {"thing", 8, false, (*client).thing},
	{"shifting", 4, false, (*client).shifting}, {"large", 2, false, (*client).large}, {"wrong", 5, false, (*client).wrongStatement},
	{"insert", 8, false, (*client).insert}, {"several", 4, false, (*client).several}, {"transaction", 8, false, (*client).transaction},
	{"abandoned", 1, false, (*client).abandoned}, {"copyIn", 3, false, (*client).copyIn}, {"sequence", 2, false, (*client).sequence},
	{"special", 6, false, func(c *client) error { return c.conn.special(c) }}, {"cancel", 1, false, (*client).cancel},
	{"prepared", 5, true, (*client).prepared}, {"setting", 8, true, (*client).setting}, {"settings", 8, true, (*client).settings},
	{"temporary", 2, true, (*client).temporary}, {"lock", 2, true, (*client).lock},
}

func (c *client) pick() work {
	total := 0
	for _, one := range works {
		if !one.leaves || c.args.leave != 0 {
			total += one.weight
		}
	}
	n := c.random.Intn(total)
	for _, one := range works {
		if !one.leaves || c.args.leave != 0 {
			if n -= one.weight; n < 0 {
				return one
			}
		}
	}
	panic("weights")
}

func (c *client) run() {
	for time.Now().Before(c.args.end) {
		if err := c.session(); err != nil {
			say("error: %s %s: %s", c.code(err), c.doing, err)
			time.Sleep(time.Duration(c.random.Intn(300)) * time.Millisecond)
		}
	}
}

func (c *client) session() error {
	c.doing = "connect"
	c.startPath = []string{"", "", "north", "south"}[c.random.Intn(4)]
	c.path, c.title = c.startPath, c.name
	conn, err := c.open(c.args, c.database, c.title, c.startPath)
	if err != nil {
		return err
	}
	c.conn = conn
	for n := 1 + c.random.Intn(c.args.session); n > 0 && time.Now().Before(c.args.end) && c.conn != nil; n-- {
		one := c.pick()
		c.doing = one.name
		if err := one.do(c); err != nil {
			if c.conn != nil {
				c.conn.close()
			}
			return err
		}
		c.operations++
	}
	if c.conn == nil {
		return nil
	}
	if c.random.Intn(10) == 0 {
		c.conn.abort()
	} else {
		c.conn.close()
	}
	return nil
}

// next is a name for a statement or a token that nothing else has.
func (c *client) next() string {
	c.count++
	return fmt.Sprintf("%s-%d", c.name, c.count)
}

func (c *client) wrong(format string, values ...interface{}) {
	say("wrong: %s: %s: %s", c.name, c.doing, fmt.Sprintf(format, values...))
}

func (c *client) same(what, got, expected string) {
	if got != expected {
		c.wrong("%s: %.300q instead of %.300q", what, got, expected)
	}
}

func (c *client) code(err error) string {
	if c.args.driver == "lib-pq" {
		return libpqCode(err)
	}
	return pgxCode(err)
}

// provoked takes an error that had to come; any other is returned.
func (c *client) provoked(err error, codes ...string) error {
	if err == nil {
		c.wrong("no error %v", codes)
		return nil
	}
	for _, code := range codes {
		if c.code(err) == code {
			return nil
		}
	}
	return err
}

func (c *client) provokedIf(fails bool, err error, codes ...string) error {
	if fails {
		return c.provoked(err, codes...)
	}
	return err
}

// value runs a statement that gives one row, and compares its columns, joined by a bar.
func (c *client) value(what, expected, sql string, args ...interface{}) error {
	_, values, err := c.conn.row(sql, args...)
	if err == nil {
		c.same(what, strings.Join(values, "|"), expected)
	}
	return err
}

// token tells what became of a token's rows. The body sets `sent` to false while nothing that commits has been sent.
func (c *client) token(rows int, fails bool, body func(token string, sent *bool) error) error {
	token, sent, outcome := c.next(), true, "failed"
	err := body(token, &sent)
	lost := map[string]bool{"-": true, "08006": true, "57P01": true, "57P02": true}
	if err == nil && !fails {
		outcome = "acked"
	} else if err != nil && sent && lost[c.code(err)] {
		outcome = "unknown"
	}
	say("%s %s %d", outcome, token, rows)
	return err
}

// Selects that name themselves.

func (c *client) literal() error {
	name := c.next()
	columns, values, err := c.conn.row(fmt.Sprintf(`select '%s' as "%s"`, name, name))
	if err == nil {
		c.same("literal", columns[0]+" "+values[0], name+" "+name)
	}
	return err
}

func (c *client) shared() error {
	which, value := c.random.Intn(30), c.next()
	text := fmt.Sprintf("text %d", which)
	return c.value("shared text", text+"|"+value, fmt.Sprintf("select '%s' as which, $1::text as value", text), value)
}

func (c *client) thing() error {
	number := 1 + c.random.Intn(100)
	columns, values, err := c.conn.row("select * from public.thing where id = $1", number)
	if err == nil {
		row := map[string]string{}
		for n, column := range columns {
			row[column] = values[n]
		}
		c.same("thing", row["id"]+" "+row["place"], fmt.Sprintf("%d %s-%d", number, c.database, number))
	}
	return err
}

func (c *client) shifting() error {
	number := 1 + c.random.Intn(100)
	err := c.value("shifting", fmt.Sprint(number), "select value from public.shifting where id = $1", number)
	if err != nil && c.code(err) == "0A000" {
		return nil
	}
	return err
}

func (c *client) large() error {
	piece, times := c.next()+".", []int{1000, 20000}[c.random.Intn(2)]
	return c.value("large", strings.Repeat(piece, times), "select repeat($1, $2)", piece, times)
}

func (c *client) wrongStatement() error {
	_, _, err := c.conn.row("select 1/$1::int", 0)
	if err = c.provoked(err, "22012"); err != nil {
		return err
	}
	_, _, err = c.conn.row("select * from nothing")
	return c.provoked(err, "42P01")
}

// Inserts.

func (c *client) insert() error {
	return c.token(1, false, func(token string, _ *bool) error {
		return c.conn.exec("insert into public.token values ($1)", token)
	})
}

func (c *client) several() error {
	fails := c.random.Intn(2) == 0
	return c.token(2, fails, func(token string, _ *bool) error {
		insert, divisor := fmt.Sprintf("insert into public.token values ('%s')", token), 1
		if fails {
			divisor = 0
		}
		return c.provokedIf(fails, c.conn.exec(fmt.Sprintf("%s; %s; select 1/%d", insert, insert, divisor)), "22012")
	})
}

func (c *client) transaction() error {
	rows, commits := 1+c.random.Intn(4), c.random.Intn(3) > 0
	return c.token(rows, !commits, func(token string, sent *bool) error {
		*sent = false
		if err := c.conn.exec("begin"); err != nil {
			return err
		}
		for n := 1; n <= rows; n++ {
			if err := c.insertAndCount(token, n); err != nil {
				return err
			}
		}
		if !commits {
			return c.conn.exec("rollback")
		}
		*sent = true
		return c.conn.exec("commit")
	})
}

func (c *client) insertAndCount(token string, n int) error {
	if err := c.conn.exec("insert into public.token values ($1)", token); err != nil {
		return err
	}
	if err := c.value("own rows", fmt.Sprint(n), "select count(*) from public.token where token = $1", token); err != nil {
		return err
	}
	if c.random.Intn(3) > 0 {
		return nil
	}
	if err := c.conn.exec("savepoint one"); err != nil {
		return err
	}
	fails := fmt.Sprintf("insert into public.token values ('%s'); select 1/0", token)
	if err := c.provoked(c.conn.exec(fails), "22012"); err != nil {
		return err
	}
	return c.conn.exec("rollback to one")
}

func (c *client) abandoned() error {
	return c.token(1, true, func(token string, sent *bool) error {
		*sent = false
		if err := c.conn.exec("begin"); err != nil {
			return err
		}
		if err := c.conn.exec("insert into public.token values ($1)", token); err != nil {
			return err
		}
		c.conn.abort()
		c.conn = nil
		return nil
	})
}

func (c *client) copyIn() error {
	rows := 1 + c.random.Intn(500)
	return c.token(rows, false, func(token string, _ *bool) error { return c.conn.copyIn(token, rows) })
}

func (c *client) sequence() error {
	if err := c.conn.exec("begin"); err != nil {
		return err
	}
	_, drawn, err := c.conn.row("select nextval('public.ticket')")
	if err != nil {
		return err
	}
	if err := c.value("currval", drawn[0], "select currval('public.ticket')"); err != nil {
		return err
	}
	return c.conn.exec("commit")
}

// cancel gives up a statement by the driver's own means; the connection is used again where the driver leaves it open.
func (c *client) cancel() error {
	err := c.conn.cancelled("select pg_sleep(20)")
	if err == nil {
		c.wrong("a statement that was cancelled has ended by itself")
	} else if c.code(err) != "57014" && !strings.Contains(err.Error(), "deadline") && !strings.Contains(err.Error(), "timeout") {
		return err
	}
	// The driver goes on cancelling in the background: what comes next could be hit directly, too.
	c.conn.close()
	c.conn = nil
	return nil
}

// The session.

func (c *client) prepared() error {
	name, values := c.next(), []string{"a", "b", "c"}
	got, err := c.conn.prepared(fmt.Sprintf("select '%s' || $1::text", name), values)
	if err == nil {
		c.same("prepared", strings.Join(got, "|"), name+"a|"+name+"b|"+name+"c")
	}
	return err
}

func (c *client) setting() error {
	statement := ""
	switch c.random.Intn(5) {
	case 0:
		c.path = []string{"north", "south"}[c.random.Intn(2)]
		statement = "set search_path to " + c.path
	case 1:
		c.title = c.next()
		statement = fmt.Sprintf("select 1; set application_name = '%s'", c.title)
	case 2:
		c.path = c.startPath
		statement = "reset search_path"
	case 3:
		c.path, c.title = c.startPath, c.name
		statement = "reset all"
	default:
		statement = "begin; set local search_path = south; set application_name = 'nobody'; rollback"
	}
	if err := c.conn.exec(statement); err != nil {
		return err
	}
	return c.settings()
}

func (c *client) settings() error {
	name, path := c.path, c.path
	if path == "" {
		name, path = "public", `"$user", public`
	}
	const text = "select name, current_setting('search_path'), current_setting('application_name') from spot where 1 = $1::int"
	return c.value("settings", name+"|"+path+"|"+c.title, text, 1)
}

func (c *client) temporary() error {
	name := c.next()
	if err := c.conn.exec(fmt.Sprintf("create temporary table own as select '%s'::text as name", name)); err != nil {
		return err
	}
	for n := 0; n < 3; n++ {
		// Not prepared: the driver would keep it for a table that is another one each time.
		if err := c.value("temporary table", name, fmt.Sprintf("select name from own where name <> '%s'", c.next())); err != nil {
			return err
		}
	}
	return c.conn.exec("drop table own")
}

func (c *client) lock() error {
	number := 1 + c.random.Intn(5)
	if err := c.conn.exec(fmt.Sprintf("select pg_advisory_lock(%d)", number)); err != nil {
		return err
	}
	if err := c.conn.exec("update public.holder set client = $1 where lock = $2", c.name, number); err != nil {
		return err
	}
	for n := 0; n < 3; n++ {
		if err := c.value("locked", c.name, "select client from public.holder where lock = $1", number); err != nil {
			return err
		}
	}
	return c.value("unlock", "true", "select pg_advisory_unlock($1)", number)
}
