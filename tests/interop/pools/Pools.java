import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CyclicBarrier;

/** Forty connections of HikariCP's, all held at once, by pgjdbc: HOST PORT. */
public class Pools {
    static final int CLIENTS = 40;
    static final int ROUNDS = 3;
    static final CyclicBarrier BARRIER = new CyclicBarrier(CLIENTS);

    static String value(Connection conn, String sql) throws SQLException {
        try (Statement statement = conn.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getString(1);
        }
    }

    static List<String> client(HikariDataSource pool, int number) throws Exception {
        List<String> said = new ArrayList<>();
        for (int turn = 0; turn < ROUNDS; turn++) {
            try (Connection conn = pool.getConnection()) {
                BARRIER.await();
                conn.setAutoCommit(false);
                try (PreparedStatement insert = conn.prepareStatement("insert into pool_hikari values (?, ?)")) {
                    insert.setInt(1, number);
                    insert.setInt(2, turn);
                    insert.executeUpdate();
                }
                conn.commit();
                try {
                    value(conn, "select 1 / 0");
                } catch (SQLException error) {
                    said.add(error.getSQLState());
                }
                conn.rollback();
                // What HikariCP puts back when the connection is closed.
                conn.setReadOnly(number % 2 == 0);
                conn.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
                conn.setSchema("information_schema");
                said.add(value(conn, "select current_setting('transaction_read_only') || current_setting('transaction_isolation') || current_setting('search_path')"));
                conn.commit();
                conn.setNetworkTimeout(Runnable::run, 30000);
                BARRIER.await();
            }
            try (Connection conn = pool.getConnection()) {
                BARRIER.await();
                said.add(value(conn, "select current_setting('transaction_read_only') || current_setting('transaction_isolation') || current_setting('search_path')"));
                said.add(value(conn, "select count(*) from pool_hikari where client = " + number));
                said.add(String.valueOf(conn.isValid(5)));
                BARRIER.await();
            }
        }
        return said;
    }

    public static void main(String[] args) throws Exception {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl("jdbc:postgresql://" + args[0] + ":" + args[1] + "/postgres?sslmode=disable");
        config.setUsername("postgres");
        config.setPassword("");
        config.setSchema("public");
        config.setMinimumIdle(CLIENTS);
        config.setMaximumPoolSize(CLIENTS);
        config.setConnectionTimeout(60000);
        config.setConnectionInitSql("set application_name = 'hikari'; set statement_timeout = '30s'");
        config.setTransactionIsolation("TRANSACTION_READ_COMMITTED");
        try (HikariDataSource pool = new HikariDataSource(config)) {
            try (Connection conn = pool.getConnection(); Statement statement = conn.createStatement()) {
                statement.execute("drop table if exists pool_hikari; create table pool_hikari (client int, turn int)");
            }
            Clients.run(CLIENTS, number -> {
                try {
                    return client(pool, number);
                } catch (Exception error) {
                    BARRIER.reset();
                    throw error;
                }
            });
        }
    }
}
