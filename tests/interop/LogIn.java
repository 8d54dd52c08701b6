import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Properties;

/** pgjdbc logs in by every method, over TLS. */
public class LogIn {
    public static void main(String[] args) {
        String port = args[0];
        String certs = args[1];
        String secret = args[2];
        boolean good = true;
        for (String user : new String[] {"scram_user", "md5_user", "plain_user", "pass_user", "cert_user"}) {
            for (boolean right : new boolean[] {true, false}) {
                Properties properties = new Properties();
                properties.setProperty("user", user);
                properties.setProperty("sslmode", "verify-full");
                properties.setProperty("sslrootcert", certs + "/root.crt");
                boolean cert = user.equals("cert_user");
                if (cert && right) {
                    properties.setProperty("sslcert", certs + "/client.crt");
                    properties.setProperty("sslkey", certs + "/client.pk8");
                }
                properties.setProperty("password", right || cert ? secret : "wrong");
                boolean in;
                String said = "";
                try (Connection connection =
                                DriverManager.getConnection("jdbc:postgresql://localhost:" + port + "/postgres", properties);
                        ResultSet result = connection.createStatement().executeQuery("select current_user")) {
                    result.next();
                    in = result.getString(1).equals(user);
                } catch (SQLException error) {
                    in = false;
                    said = " " + error.getMessage();
                }
                good &= in == right;
                System.out.println((in == right ? "ok: " : "WRONG: ") + user + " pgjdbc" + (right ? "" : " refused") + said);
            }
        }
        System.exit(good ? 0 : 1);
    }
}
