import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;

/** One connection by pgjdbc: a URL. */
public class Connect {
    public static void main(String[] args) throws SQLException {
        String query = "select current_user || ' ' || current_database()";
        try (Connection connection = DriverManager.getConnection(args[0]);
                ResultSet result = connection.createStatement().executeQuery(query)) {
            result.next();
            System.out.println(result.getString(1));
        }
    }
}
