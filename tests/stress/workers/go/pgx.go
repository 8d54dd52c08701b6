package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgconn/stmtcache"
	"github.com/jackc/pgx/v4"
)

// native is a connection of pgx's own.
type native struct {
	conn *pgx.Conn
}

func openPgx(args arguments, database, title, path string) (connection, error) {
	config, err := pgx.ParseConfig("sslmode=disable")
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(args.port)
	if err != nil {
		return nil, err
	}
	config.Host, config.Port, config.Database = args.host, uint16(port), database
	config.User, config.Password = args.user, args.password
	config.RuntimeParams["application_name"] = title
	if path != "" {
		config.RuntimeParams["search_path"] = path
	}
	if args.leave == 0 {
		// By the unnamed statement.
		config.BuildStatementCache = nil
	} else if args.seed%2 == 0 {
		config.BuildStatementCache = func(conn *pgconn.PgConn) stmtcache.Cache {
			return stmtcache.New(conn, stmtcache.ModeDescribe, 20)
		}
	}
	conn, err := pgx.ConnectConfig(context.Background(), config)
	if err != nil {
		return nil, err
	}
	return &native{conn}, nil
}

func (p *native) row(text string, args ...interface{}) ([]string, []string, error) {
	rows, err := p.conn.Query(context.Background(), text, args...)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	columns := []string{}
	for _, field := range rows.FieldDescriptions() {
		columns = append(columns, string(field.Name))
	}
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return nil, nil, err
		}
		return nil, nil, pgx.ErrNoRows
	}
	values, err := rows.Values()
	if err != nil {
		return nil, nil, err
	}
	texts := []string{}
	for _, value := range values {
		texts = append(texts, fmt.Sprint(value))
	}
	for rows.Next() {
	}
	return columns, texts, rows.Err()
}

func (p *native) exec(text string, args ...interface{}) error {
	if len(args) == 0 {
		_, err := p.conn.PgConn().Exec(context.Background(), text).ReadAll()
		return err
	}
	_, err := p.conn.Exec(context.Background(), text, args...)
	return err
}

func (p *native) prepared(text string, values []string) (got []string, err error) {
	ctx, conn := context.Background(), p.conn.PgConn()
	if _, err := conn.Prepare(ctx, "own_statement", text, nil); err != nil {
		return nil, err
	}
	for _, value := range values {
		result := conn.ExecPrepared(ctx, "own_statement", [][]byte{[]byte(value)}, nil, nil).Read()
		if result.Err != nil {
			return got, result.Err
		}
		got = append(got, string(result.Rows[0][0]))
	}
	return got, p.exec("deallocate own_statement")
}

func (p *native) copyIn(token string, rows int) error {
	source := pgx.CopyFromSlice(rows, func(int) ([]interface{}, error) { return []interface{}{token}, nil })
	_, err := p.conn.CopyFrom(context.Background(), pgx.Identifier{"public", "token"}, []string{"token"}, source)
	return err
}

func (p *native) cancelled(text string) error {
	ctx, stop := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer stop()
	_, err := p.conn.Exec(ctx, text)
	return err
}

// special sends a batch: all in one write, with or without an error in the middle.
func (p *native) special(c *client) error {
	ctx, rows, fails := context.Background(), 1+c.random.Intn(5), c.random.Intn(3) == 0
	return c.token(rows, fails, func(token string, sent *bool) error {
		batch := &pgx.Batch{}
		for n := 0; n < rows; n++ {
			batch.Queue("insert into public.token values ($1)", token)
			divisor := 1
			if fails && n == rows/2 {
				divisor = 0
			}
			batch.Queue("select $1::text, 1/$2::int", token, divisor)
		}
		results := p.conn.SendBatch(ctx, batch)
		for n := 0; n < rows; n++ {
			if _, err := results.Exec(); err != nil {
				results.Close()
				return c.provokedIf(fails, err, "22012")
			}
			var got string
			var one int
			if err := results.QueryRow().Scan(&got, &one); err != nil {
				results.Close()
				return c.provokedIf(fails, err, "22012")
			}
			c.same("batch", got, token)
		}
		return c.provokedIf(fails, results.Close(), "22012")
	})
}

func (p *native) dead() bool { return p.conn.IsClosed() }

func (p *native) abort() {
	p.conn.PgConn().Conn().Close()
	p.close()
}

func (p *native) close() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	p.conn.Close(ctx)
}

func pgxCode(err error) string {
	var known *pgconn.PgError
	if errors.As(err, &known) {
		return known.Code
	}
	return "-"
}
