package main

// connection is one connection of a driver.
type connection interface {
	// row runs a statement and returns the names of its columns, and its only row as text.
	row(sql string, args ...interface{}) ([]string, []string, error)
	// exec runs a statement, or several where there are no arguments, and returns the last command tag or number of rows.
	exec(sql string, args ...interface{}) error
	// prepared runs a statement that it prepares by name, once for each argument, and returns the values.
	prepared(sql string, values []string) ([]string, error)
	// copyIn copies so many rows of a token into its table.
	copyIn(token string, rows int) error
	// cancelled runs a statement that is given up after a moment.
	cancelled(sql string) error
	// special does what only this driver does.
	special(c *client) error
	// dead says whether it can't be used any more.
	dead() bool
	// abort closes it without a word.
	abort()
	close()
}

// opener opens a connection with an application name and, where it is not empty, a search path.
type opener func(args arguments, database, title, path string) (connection, error)
