// The worker for lib/pq and pgx: a goroutine per client.
package main

import (
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// arguments are DRIVER HOST PORT USER PASSWORD CLIENTS SECONDS SESSION LEAVES SEED.
type arguments struct {
	driver, host, port, user, password     string
	clients, seconds, session, leave, seed int
	end                                    time.Time
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return n
}

var output sync.Mutex

// say prints one line of the workers' protocol.
func say(format string, values ...interface{}) {
	line := strings.Join(strings.Fields(fmt.Sprintf(format, values...)), " ")
	output.Lock()
	defer output.Unlock()
	fmt.Println(line)
}

func main() {
	a := os.Args[1:]
	args := arguments{driver: a[0], host: a[1], port: a[2], user: a[3], password: a[4],
		clients: number(a[5]), seconds: number(a[6]), session: number(a[7]), leave: number(a[8]), seed: number(a[9])}
	args.end = time.Now().Add(time.Duration(args.seconds) * time.Second)
	open := openPgx
	if args.driver == "lib-pq" {
		open = openLibpq
	}
	var all sync.WaitGroup
	clients := make([]*client, args.clients)
	for n := range clients {
		clients[n] = newClient(args, n, open)
		all.Add(1)
		go func(c *client) {
			defer all.Done()
			c.run()
		}(clients[n])
	}
	all.Wait()
	operations := 0
	for _, c := range clients {
		operations += c.operations
	}
	say("done %d", operations)
}

func newClient(args arguments, n int, open opener) *client {
	return &client{args: args, open: open, random: rand.New(rand.NewSource(int64(args.seed*1000 + n))),
		name: fmt.Sprintf("%s-%d-%d", args.driver, args.seed, n), database: []string{"first", "second"}[n%2]}
}
