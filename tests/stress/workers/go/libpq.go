package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lib/pq"
)

// libpq is a connection of lib/pq's, by database/sql.
type libpq struct {
	db   *sql.DB
	conn *sql.Conn
}

func keyword(name, value string) string {
	return name + "='" + strings.ReplaceAll(strings.ReplaceAll(value, `\`, `\\`), `'`, `\'`) + "' "
}

func openLibpq(args arguments, database, title, path string) (connection, error) {
	form := keyword("host", args.host) + keyword("port", args.port) + keyword("user", args.user) + keyword("dbname", database) +
		keyword("application_name", title) + "sslmode=disable "
	if args.password != "" {
		form += keyword("password", args.password)
	}
	if path != "" {
		form += keyword("search_path", path)
	}
	db, err := sql.Open("postgres", form)
	if err != nil {
		return nil, err
	}
	conn, err := db.Conn(context.Background())
	if err != nil {
		db.Close()
		return nil, err
	}
	return &libpq{db, conn}, nil
}

func (l *libpq) row(text string, args ...interface{}) ([]string, []string, error) {
	rows, err := l.conn.QueryContext(context.Background(), text, args...)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, nil, err
	}
	values, places := make([]interface{}, len(columns)), make([]interface{}, len(columns))
	for n := range values {
		places[n] = &values[n]
	}
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return nil, nil, err
		}
		return nil, nil, sql.ErrNoRows
	}
	if err := rows.Scan(places...); err != nil {
		return nil, nil, err
	}
	texts := make([]string, len(values))
	for n, value := range values {
		if bytes, ok := value.([]byte); ok {
			texts[n] = string(bytes)
		} else {
			texts[n] = fmt.Sprint(value)
		}
	}
	for rows.Next() {
	}
	return columns, texts, rows.Err()
}

func (l *libpq) exec(text string, args ...interface{}) error {
	_, err := l.conn.ExecContext(context.Background(), text, args...)
	return err
}

func (l *libpq) prepared(text string, values []string) (got []string, err error) {
	statement, err := l.conn.PrepareContext(context.Background(), text)
	if err != nil {
		return nil, err
	}
	defer statement.Close()
	for _, value := range values {
		var one string
		if err := statement.QueryRow(value).Scan(&one); err != nil {
			return got, err
		}
		got = append(got, one)
	}
	return got, nil
}

func (l *libpq) copyIn(token string, rows int) error {
	// Its COPY needs a transaction of its own.
	transaction, err := l.conn.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	defer transaction.Rollback()
	statement, err := transaction.Prepare(pq.CopyInSchema("public", "token", "token"))
	if err != nil {
		return err
	}
	for n := 0; n < rows; n++ {
		if _, err := statement.Exec(token); err != nil {
			return err
		}
	}
	if _, err := statement.Exec(); err != nil {
		return err
	}
	if err := statement.Close(); err != nil {
		return err
	}
	return transaction.Commit()
}

func (l *libpq) cancelled(text string) error {
	ctx, stop := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer stop()
	_, err := l.conn.ExecContext(ctx, text)
	return err
}

// special reads a result in which an error comes behind rows.
func (l *libpq) special(c *client) error {
	rows, err := l.conn.QueryContext(context.Background(), "select $1::text, 1/(30 - n) from generate_series(1, 30) n", c.next())
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return c.provoked(rows.Err(), "22012")
}

func (l *libpq) dead() bool {
	return l.conn.Raw(func(interface{}) error { return nil }) != nil
}

func (l *libpq) abort() {
	l.conn.Raw(func(inner interface{}) error { return driver.ErrBadConn })
	l.close()
}

func (l *libpq) close() {
	l.conn.Close()
	l.db.Close()
}

// code is the SQLSTATE of an error, or "-".
func libpqCode(err error) string {
	var known *pq.Error
	if errors.As(err, &known) {
		return string(known.Code)
	}
	return "-"
}
