import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;

/** pgjdbc as it comes: from the fifth time on a statement is prepared on the server. */
public class Jdbc {
    static String url;

    static Connection connect() throws SQLException {
        return DriverManager.getConnection(url, "postgres", "");
    }

    static List<String> client(int number) throws SQLException {
        List<String> said = new ArrayList<>();
        try (Connection conn = connect()) {
            try (PreparedStatement insert = conn.prepareStatement("insert into jdbc_things values (?, ?)");
                    PreparedStatement count = conn.prepareStatement("select count(*) from jdbc_things where client = ?")) {
                for (int turn = 0; turn < 30; turn++) {
                    insert.setInt(1, number);
                    insert.setInt(2, turn);
                    insert.executeUpdate();
                    conn.setAutoCommit(false);
                    insert.executeUpdate();
                    count.setInt(1, number);
                    try (ResultSet rows = count.executeQuery()) {
                        rows.next();
                        said.add(rows.getString(1));
                    }
                    conn.rollback();
                    conn.setAutoCommit(true);
                }
                for (int turn = 100; turn < 150; turn++) {
                    insert.setInt(1, number);
                    insert.setInt(2, turn);
                    insert.addBatch();
                }
                said.add("batch of " + insert.executeBatch().length);
            }
            conn.setAutoCommit(false);
            conn.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            try (PreparedStatement many = conn.prepareStatement("select turn from jdbc_things where client = ? order by turn")) {
                many.setFetchSize(7);
                many.setInt(1, number);
                int sum = 0;
                try (ResultSet rows = many.executeQuery()) {
                    while (rows.next()) {
                        sum += rows.getInt(1);
                    }
                }
                said.add("sum " + sum);
            }
            try (Statement statement = conn.createStatement()) {
                try {
                    statement.execute("select 1/0");
                } catch (SQLException error) {
                    said.add(error.getSQLState());
                }
            }
            conn.rollback();
            conn.setAutoCommit(true);
            conn.setSchema("jdbc_schema");
            conn.setReadOnly(true);
            try (Statement statement = conn.createStatement();
                    ResultSet rows = statement.executeQuery("select current_setting('search_path'), current_setting('transaction_isolation')")) {
                rows.next();
                said.add(rows.getString(1) + " " + rows.getString(2));
            }
            said.add(conn.getSchema());
        }
        return said;
    }

    public static void main(String[] args) throws Exception {
        url = "jdbc:postgresql://" + args[0] + ":" + args[1] + "/postgres?sslmode=disable";
        try (Connection conn = connect(); Statement statement = conn.createStatement()) {
            statement.execute("drop table if exists jdbc_things; create table jdbc_things (client int, turn int)");
            statement.execute("create schema if not exists jdbc_schema");
        }
        Clients.run(6, Jdbc::client);
    }
}
