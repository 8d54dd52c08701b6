import java.io.IOException;
import java.io.StringReader;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

/** The worker for pgjdbc: a thread per client. */
public class Stress {
    /** An error of these, or of none, leaves open what was carried out. */
    private static final Set<String> LOST = Set.of("08000", "08003", "08006", "57P01", "57P02");

    private static String driver, host, port, user, password;
    private static int session;
    private static boolean leaves;
    private static long seed, end;

    /** Something that a client does. */
    private interface Work {
        void run(Client client) throws SQLException, IOException;
    }

    /** What a client does: how often, and whether it leaves something in the session for as long as that lasts. */
    private record Task(String name, int weight, boolean leaves, Work work) {}

    private static final List<Task> TASKS = List.of(
            new Task("literal", 10, false, Client::literal), new Task("shared", 10, false, Client::shared),
            new Task("typed", 5, false, Client::typed), new Task("thing", 8, false, Client::thing),
            new Task("shifting", 4, false, Client::shifting), new Task("large", 2, false, Client::large),
            new Task("fetched", 3, false, Client::fetched), new Task("wrongStatement", 5, false, Client::wrongStatement),
            new Task("insert", 8, false, Client::insert), new Task("several", 4, false, Client::several),
            new Task("transaction", 8, false, Client::transaction), new Task("batch", 6, false, Client::batch),
            new Task("abandoned", 1, false, Client::abandoned), new Task("copyIn", 3, false, Client::copyIn),
            new Task("copyOut", 2, false, Client::copyOut), new Task("sequence", 2, false, Client::sequence),
            new Task("cancel", 1, false, Client::cancel), new Task("setting", 8, true, Client::setting),
            new Task("settings", 8, true, Client::settings), new Task("temporary", 2, true, Client::temporary),
            new Task("lock", 2, true, Client::lock), new Task("listen", 2, true, Client::listen));

    private static void say(String line) {
        synchronized (System.out) {
            System.out.println(line.replaceAll("\\s+", " ").strip());
            System.out.flush();
        }
    }

    public static void main(String[] args) throws InterruptedException {
        driver = args[0];
        host = args[1];
        port = args[2];
        user = args[3];
        password = args[4];
        session = Integer.parseInt(args[7]);
        leaves = args[8].equals("1");
        seed = Long.parseLong(args[9]);
        end = System.nanoTime() + Long.parseLong(args[6]) * 1_000_000_000L;
        List<Client> clients = new ArrayList<>();
        List<Thread> threads = new ArrayList<>();
        for (int number = 0; number < Integer.parseInt(args[5]); number++) {
            Client client = new Client(number);
            Thread thread = new Thread(null, client::run, client.name, 256 * 1024);
            clients.add(client);
            threads.add(thread);
            thread.start();
        }
        int operations = 0;
        for (int n = 0; n < clients.size(); n++) {
            threads.get(n).join();
            operations += clients.get(n).operations;
        }
        say("done " + operations);
        System.exit(0);
    }

    private static boolean over() {
        return System.nanoTime() > end;
    }

    /** A token's name, and whether what commits it may have been sent. */
    private static final class Token {
        final String name;
        boolean sent = true;

        Token(String name) {
            this.name = name;
        }
    }

    private interface Body {
        void run(Token token) throws SQLException, IOException;
    }

    /** One client: its name, its connection, and what it is to find in its session. */
    private static final class Client {
        final String name;
        int operations = 0;
        private final String database;
        private final Random random;
        private int count = 0;
        private String doing, startPath, path, title;
        private Connection connection;

        Client(int number) {
            name = driver + "-" + seed + "-" + number;
            database = number % 2 == 0 ? "first" : "second";
            random = new Random(seed * 1000 + number);
        }

        void run() {
            while (!over()) {
                try {
                    work();
                } catch (SQLException | IOException error) {
                    String state = error instanceof SQLException sql ? sql.getSQLState() : null;
                    say("error: " + (state == null ? "-" : state) + " " + doing + ": " + error.getMessage());
                    pause(random.nextInt(300));
                }
            }
        }

        private void work() throws SQLException, IOException {
            doing = "connect";
            startPath = pick(null, null, "north", "south");
            path = startPath;
            title = name;
            connection = connect();
            try {
                for (int n = 1 + random.nextInt(session); n > 0 && !over() && connection != null; n--) {
                    Task task = choose();
                    doing = task.name;
                    task.work.run(this);
                    operations++;
                }
            } finally {
                leave();
            }
        }

        private Connection connect() throws SQLException {
            Properties properties = new Properties();
            properties.setProperty("user", user);
            properties.setProperty("password", password);
            properties.setProperty("ApplicationName", title);
            // Else it says that name by SET, which a reset does not go back to.
            properties.setProperty("assumeMinServerVersion", "9.0");
            properties.setProperty("sslmode", "disable");
            properties.setProperty("prepareThreshold", leaves ? pick("5", "1", "-1") : "0");
            properties.setProperty("preferQueryMode", leaves ? pick("extended", "extended", "extendedForPrepared", "simple") : "extended");
            if (startPath != null) {
                properties.setProperty("options", "-c search_path=" + startPath);
            }
            return DriverManager.getConnection("jdbc:postgresql://" + host + ":" + port + "/" + database, properties);
        }

        private void leave() throws SQLException {
            if (connection == null) {
                return;
            }
            if (random.nextInt(10) == 0) {
                connection.abort(Runnable::run);
            }
            connection.close();
        }

        private Task choose() {
            int total = TASKS.stream().filter(task -> leaves || !task.leaves).mapToInt(Task::weight).sum();
            int n = random.nextInt(total);
            for (Task task : TASKS) {
                if ((leaves || !task.leaves) && (n -= task.weight) < 0) {
                    return task;
                }
            }
            throw new IllegalStateException("weights");
        }

        private String pick(String... choices) {
            return choices[random.nextInt(choices.length)];
        }

        private String next() {
            return name + "-" + ++count;
        }

        private void wrong(String text) {
            say("wrong: " + name + ": " + doing + ": " + text);
        }

        private void same(String what, String got, String expected) {
            if (!expected.equals(got)) {
                String shown = got == null ? "null" : got.substring(0, Math.min(300, got.length()));
                wrong(what + ": " + shown + " instead of " + expected.substring(0, Math.min(300, expected.length())));
            }
        }

        private void execute(String sql) throws SQLException {
            try (Statement statement = connection.createStatement()) {
                statement.execute(sql);
            }
        }

        /** The only row of a statement, its columns joined by a bar; null where there is none. */
        private String row(String sql, Object... values) throws SQLException {
            try (PreparedStatement statement = connection.prepareStatement(sql)) {
                for (int n = 0; n < values.length; n++) {
                    statement.setObject(n + 1, values[n]);
                }
                try (ResultSet result = statement.executeQuery()) {
                    String row = null;
                    while (result.next()) {
                        List<String> columns = new ArrayList<>();
                        for (int n = 1; n <= result.getMetaData().getColumnCount(); n++) {
                            columns.add(result.getString(n));
                        }
                        row = String.join("|", columns);
                    }
                    return row;
                }
            }
        }

        private void fails(String state, Body body) throws SQLException, IOException {
            try {
                body.run(null);
            } catch (SQLException error) {
                if (!state.equals(error.getSQLState())) {
                    throw error;
                }
                return;
            }
            wrong("no error " + state);
        }

        /** Tells what became of a token's rows. */
        private void token(int rows, boolean fails, Body body) throws SQLException, IOException {
            Token token = new Token(next());
            String outcome = "failed";
            try {
                body.run(token);
                outcome = fails ? "failed" : "acked";
            } catch (SQLException error) {
                if (token.sent && (error.getSQLState() == null || LOST.contains(error.getSQLState()))) {
                    outcome = "unknown";
                }
                throw error;
            } catch (IOException error) {
                outcome = "unknown";
                throw error;
            } finally {
                say(outcome + " " + token.name + " " + rows);
            }
        }

        // Selects that name themselves.

        void literal() throws SQLException {
            String text = next();
            try (Statement statement = connection.createStatement();
                    ResultSet result = statement.executeQuery("select '" + text + "' as \"" + text + "\"")) {
                result.next();
                same("literal", result.getMetaData().getColumnName(1) + result.getString(1), text + text);
            }
        }

        void shared() throws SQLException {
            String text = "text " + random.nextInt(30), value = next();
            same("shared text", row("select '" + text + "' as which, ?::text as value", value), text + "|" + value);
        }

        void typed() throws SQLException {
            Object[][] values = {{7, "integer"}, {7_000_000_000L, "bigint"}, {"seven", "character varying"}, {1.5, "double precision"}};
            Object[] chosen = values[random.nextInt(values.length)];
            boolean simple = connection.unwrap(PGConnection.class).getPreferQueryMode().value().equals("simple");
            String got = row("select pg_typeof(?)::text, 'typed'", chosen[0]);
            if (!simple) {
                same("typed", got, chosen[1] + "|typed");
            }
        }

        void thing() throws SQLException {
            int number = 1 + random.nextInt(100);
            try (PreparedStatement statement = connection.prepareStatement("select * from public.thing where id = ?")) {
                statement.setInt(1, number);
                try (ResultSet result = statement.executeQuery()) {
                    result.next();
                    same("thing", result.getLong("id") + " " + result.getString("place"), number + " " + database + "-" + number);
                }
            }
        }

        void shifting() throws SQLException {
            int number = 1 + random.nextInt(100);
            try (PreparedStatement statement = connection.prepareStatement("select value from public.shifting where id = ?")) {
                statement.setInt(1, number);
                try (ResultSet result = statement.executeQuery()) {
                    result.next();
                    same("shifting", String.valueOf(result.getInt(1)), String.valueOf(number));
                }
            } catch (SQLException error) {
                if (!"0A000".equals(error.getSQLState())) {
                    throw error;
                }
            }
        }

        void large() throws SQLException {
            String piece = next() + ".";
            int times = random.nextBoolean() ? 1000 : 20_000;
            same("large", row("select repeat(?, ?)", piece, times), piece.repeat(times));
        }

        /** Seven rows at a time, by a portal. */
        void fetched() throws SQLException {
            String text = next();
            int rows = random.nextInt(60), got = 0;
            connection.setAutoCommit(false);
            try (PreparedStatement statement = connection.prepareStatement("select ?::text, n from generate_series(1, ?) n")) {
                statement.setFetchSize(7);
                statement.setString(1, text);
                statement.setInt(2, rows);
                try (ResultSet result = statement.executeQuery()) {
                    while (result.next()) {
                        same("fetched", result.getString(1) + result.getInt(2), text + ++got);
                    }
                }
            }
            same("fetched rows", String.valueOf(got), String.valueOf(rows));
            connection.commit();
            connection.setAutoCommit(true);
        }

        void wrongStatement() throws SQLException, IOException {
            fails("22012", none -> row("select 1/?", 0));
            fails("42P01", none -> row("select * from nothing"));
        }

        // Inserts.

        private void insert(String token) throws SQLException {
            try (PreparedStatement statement = connection.prepareStatement("insert into public.token values (?)")) {
                statement.setString(1, token);
                statement.executeUpdate();
            }
        }

        void insert() throws SQLException, IOException {
            token(1, false, token -> insert(token.name));
        }

        void several() throws SQLException, IOException {
            boolean fails = random.nextBoolean();
            token(2, fails, token -> {
                String insert = "insert into public.token values ('" + token.name + "')";
                String text = insert + "; " + insert + "; select 1/" + (fails ? 0 : 1);
                if (fails) {
                    fails("22012", none -> execute(text));
                } else {
                    execute(text);
                }
            });
        }

        void transaction() throws SQLException, IOException {
            int rows = 1 + random.nextInt(4);
            boolean commits = random.nextInt(3) > 0;
            token(rows, !commits, token -> {
                token.sent = false;
                connection.setAutoCommit(false);
                for (int n = 1; n <= rows; n++) {
                    insert(token.name);
                    same("own rows", row("select count(*) from public.token where token = ?", token.name), String.valueOf(n));
                    if (random.nextInt(3) == 0) {
                        var savepoint = connection.setSavepoint();
                        fails("22012", none -> execute("insert into public.token values ('" + token.name + "'); select 1/0"));
                        connection.rollback(savepoint);
                    }
                }
                if (commits) {
                    token.sent = true;
                    connection.commit();
                } else {
                    connection.rollback();
                }
                connection.setAutoCommit(true);
            });
        }

        void batch() throws SQLException, IOException {
            int rows = 1 + random.nextInt(8);
            boolean fails = random.nextInt(3) == 0;
            token(rows, fails, token -> {
                token.sent = !fails;
                connection.setAutoCommit(false);
                try (PreparedStatement statement = connection.prepareStatement("insert into public.token select ? where 1/? > 0")) {
                    for (int n = 0; n < rows; n++) {
                        statement.setString(1, token.name);
                        statement.setInt(2, fails && n == rows / 2 ? 0 : 1);
                        statement.addBatch();
                    }
                    statement.executeBatch();
                    if (fails) {
                        wrong("no error in a batch");
                    }
                } catch (BatchUpdateException error) {
                    if (!fails || !"22012".equals(error.getSQLState())) {
                        throw error;
                    }
                    connection.rollback();
                }
                connection.commit();
                connection.setAutoCommit(true);
            });
        }

        void abandoned() throws SQLException, IOException {
            token(1, true, token -> {
                token.sent = false;
                connection.setAutoCommit(false);
                insert(token.name);
                connection.abort(Runnable::run);
                connection = null;
            });
        }

        void copyIn() throws SQLException, IOException {
            int rows = 1 + random.nextInt(500);
            token(rows, false, token -> connection.unwrap(PGConnection.class).getCopyAPI()
                    .copyIn("copy public.token from stdin", new StringReader((token.name + "\n").repeat(rows))));
        }

        void copyOut() throws SQLException, IOException {
            String text = next();
            int rows = random.nextInt(2000);
            var out = new java.io.StringWriter();
            String copy = "copy (select '" + text + "', n from generate_series(1, " + rows + ") n) to stdout";
            connection.unwrap(PGConnection.class).getCopyAPI().copyOut(copy, out);
            StringBuilder expected = new StringBuilder();
            for (int n = 1; n <= rows; n++) {
                expected.append(text).append('\t').append(n).append('\n');
            }
            same("copied", out.toString(), expected.toString());
        }

        void sequence() throws SQLException {
            connection.setAutoCommit(false);
            String drawn = row("select nextval('public.ticket')");
            same("currval", row("select currval('public.ticket')"), drawn);
            connection.commit();
            connection.setAutoCommit(true);
        }

        /** Cancels until it is heard: directly, too, a request that comes before its statement does nothing. */
        void cancel() throws SQLException, IOException {
            // A statement of pgjdbc's sends one request for each execution, however often it is asked to.
            PGConnection cancelled = connection.unwrap(PGConnection.class);
            try (Statement statement = connection.createStatement()) {
                CountDownLatch heard = new CountDownLatch(1);
                Thread canceller = new Thread(() -> {
                    try {
                        while (!heard.await(50, TimeUnit.MILLISECONDS)) {
                            cancelled.cancelQuery();
                        }
                    } catch (SQLException | InterruptedException error) {
                        return;
                    }
                });
                canceller.start();
                try {
                    fails("57014", none -> statement.execute("select pg_sleep(20)"));
                } finally {
                    heard.countDown();
                    join(canceller);
                }
            }
            try {
                execute("select 1");
            } catch (SQLException error) {
                if (!"57014".equals(error.getSQLState())) {
                    throw error;
                }
            }
        }

        // The session.

        void setting() throws SQLException {
            switch (random.nextInt(5)) {
                case 0 -> {
                    path = pick("north", "south");
                    execute("set search_path to " + path);
                }
                case 1 -> {
                    title = next();
                    execute("select 1; set application_name = '" + title + "'");
                }
                case 2 -> {
                    execute("reset search_path");
                    path = startPath;
                }
                case 3 -> {
                    path = pick("north", "south");
                    connection.setSchema(path);
                    path = row("show search_path").equals('"' + path + '"') ? '"' + path + '"' : path;
                }
                default -> {
                    execute("reset all");
                    path = startPath;
                    title = name;
                }
            }
            settings();
        }

        void settings() throws SQLException {
            String text = "select name, current_setting('search_path'), current_setting('application_name') from spot where 1 = ?";
            String shown = path == null ? "public|\"$user\", public" : path.replace("\"", "") + "|" + path;
            same("settings", row(text, 1), shown + "|" + title);
        }

        void temporary() throws SQLException {
            String text = next();
            execute("create temporary table own as select '" + text + "'::text as name");
            for (int n = 0; n < 3; n++) {
                same("temporary table", row("select name from own where 'x' <> '" + next() + "'"), text);
            }
            execute("drop table own");
        }

        void lock() throws SQLException {
            int number = 1 + random.nextInt(5);
            row("select pg_advisory_lock(?)", number);
            try (PreparedStatement statement = connection.prepareStatement("update public.holder set client = ? where lock = ?")) {
                statement.setString(1, name);
                statement.setInt(2, number);
                statement.executeUpdate();
            }
            for (int n = 0; n < 3; n++) {
                same("locked", row("select client from public.holder where lock = ?", number), name);
            }
            same("unlock", row("select pg_advisory_unlock(?)", number), "t");
        }

        void listen() throws SQLException {
            String payload = next();
            PGConnection own = connection.unwrap(PGConnection.class);
            execute("listen stress");
            row("select pg_notify('stress', ?)", payload);
            row("select 1");
            int heard = 0;
            PGNotification[] notifications = own.getNotifications();
            for (PGNotification one : notifications == null ? new PGNotification[0] : notifications) {
                if (one.getParameter().equals(payload)) {
                    same("notifier", String.valueOf(one.getPID()), String.valueOf(own.getBackendPID()));
                    heard++;
                }
            }
            same("own notification", String.valueOf(heard), "1");
            execute("unlisten *");
        }
    }

    private static void pause(int milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }

    private static void join(Thread thread) {
        try {
            thread.join();
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }
}
