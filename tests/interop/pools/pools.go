// Forty connections of one pool of Go's, all held at once: POOL HOST PORT.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
	_ "github.com/jackc/pgx/v4/stdlib"
	_ "github.com/lib/pq"
)

const clients, rounds = 40, 3

// A barrier lets nobody on until all have come.
type barrier struct {
	lock sync.Mutex
	come int
	open chan struct{}
}

func (b *barrier) wait() {
	b.lock.Lock()
	open := b.open
	b.come++
	if b.come == clients {
		b.come, b.open = 0, make(chan struct{})
		close(open)
	}
	b.lock.Unlock()
	<-open
}

var all = &barrier{open: make(chan struct{})}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func short(err error) string {
	if err == nil {
		return "no error"
	}
	words := strings.Fields(err.Error())
	return words[len(words)-1]
}

// database/sql, on lib/pq or pgx.
func standard(driver, form, table string) [][]string {
	db, err := sql.Open(driver, form)
	check(err)
	db.SetMaxOpenConns(clients)
	db.SetMaxIdleConns(clients)
	_, err = db.Exec("drop table if exists " + table)
	check(err)
	_, err = db.Exec("create table " + table + " (client int, turn int)")
	check(err)
	return atOnce(func(number int) (said []string) {
		ctx := context.Background()
		for turn := 0; turn < rounds; turn++ {
			conn, err := db.Conn(ctx)
			check(err)
			all.wait()
			tx, err := conn.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
			check(err)
			var value string
			check(tx.QueryRow("select current_setting('transaction_isolation') || current_setting('transaction_read_only')").Scan(&value))
			said = append(said, value)
			check(tx.Commit())
			tx, err = conn.BeginTx(ctx, nil)
			check(err)
			_, err = tx.Exec("insert into "+table+" values ($1, $2)", number, turn)
			check(err)
			check(tx.Commit())
			tx, err = conn.BeginTx(ctx, nil)
			check(err)
			said = append(said, short(tx.QueryRow("select 1 / $1::int", 0).Scan(&value)))
			tx.Rollback()
			count, err := conn.PrepareContext(ctx, "select count(*)::text from "+table+" where client = $1")
			check(err)
			check(count.QueryRow(number).Scan(&value))
			said = append(said, value)
			check(count.Close())
			all.wait()
			check(conn.Close())
		}
		return said
	})
}

func pgxPool(form, table string) [][]string {
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(form + " pool_min_conns=40 pool_max_conns=40")
	check(err)
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "set statement_timeout = '30s'")
		return err
	}
	pool, err := pgxpool.ConnectConfig(ctx, config)
	check(err)
	_, err = pool.Exec(ctx, "drop table if exists "+table)
	check(err)
	_, err = pool.Exec(ctx, "create table "+table+" (client int, turn int)")
	check(err)
	said := atOnce(func(number int) (said []string) {
		for turn := 0; turn < rounds; turn++ {
			conn, err := pool.Acquire(ctx)
			check(err)
			all.wait()
			var value string
			batch := &pgx.Batch{}
			batch.Queue("insert into "+table+" values ($1, $2)", number, turn)
			batch.Queue("select count(*)::text from "+table+" where client = $1", number)
			results := conn.SendBatch(ctx, batch)
			_, err = results.Exec()
			check(err)
			check(results.QueryRow().Scan(&value))
			said = append(said, value)
			check(results.Close())
			err = conn.BeginTxFunc(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
				return tx.QueryRow(ctx, "select 1 / $1::int", 0).Scan(&value)
			})
			said = append(said, short(err))
			check(conn.QueryRow(ctx, "show statement_timeout").Scan(&value))
			said = append(said, value)
			all.wait()
			conn.Release()
		}
		return said
	})
	pool.Close()
	return said
}

func atOnce(client func(number int) []string) [][]string {
	said := make([][]string, clients)
	var done sync.WaitGroup
	for number := range said {
		done.Add(1)
		go func(number int) {
			defer done.Done()
			said[number] = client(number)
		}(number)
	}
	done.Wait()
	return said
}

func main() {
	form := fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=disable", os.Args[2], os.Args[3])
	var said [][]string
	switch os.Args[1] {
	case "lib_pq":
		said = standard("postgres", form, "pool_lib_pq")
	case "pgx_stdlib":
		said = standard("pgx", form, "pool_pgx_stdlib")
	case "pgx":
		said = pgxPool(form, "pool_pgx")
	}
	for _, one := range said {
		fmt.Println(one)
	}
}
