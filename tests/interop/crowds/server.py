"""PostgreSQL itself, past pgferry."""
import psycopg


class Server:
    def __init__(self, port):
        self.conn = psycopg.connect(host="127.0.0.1", port=port, dbname="postgres", user="postgres", autocommit=True)

    def run(self, sql):
        self.conn.execute(sql)

    def sessions(self, database):
        """Number of sessions that there have been in a database."""
        # Each is counted when it has ended, or said so.
        self.run("select pg_stat_clear_snapshot()")
        row = self.conn.execute("select sessions from pg_stat_database where datname = %s", [database]).fetchone()
        return row[0]
