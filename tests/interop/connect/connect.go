// One connection by a driver of Go's: DRIVER FORM, where the form is a URL or keywords.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"

	"github.com/jackc/pgx/v4"
	_ "github.com/lib/pq"
)

const query = "select current_user || ' ' || current_database()"

func say(driver, form string) (said string, err error) {
	if driver == "lib/pq" {
		db, err := sql.Open("postgres", form)
		if err != nil {
			return "", err
		}
		defer db.Close()
		err = db.QueryRow(query).Scan(&said)
		return said, err
	}
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, form)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, query).Scan(&said)
	return said, err
}

func main() {
	said, err := say(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(said)
}
