import java.util.ArrayList;
import java.util.List;

/** Clients that work side by side, each in a thread of its own. */
public class Clients {
    /** One of them: what it says in the end. */
    public interface Client {
        Object run(int number) throws Exception;
    }

    /** Runs so many, and prints what each says, or its error, in the order of their numbers. */
    public static void run(int count, Client client) throws InterruptedException {
        List<Thread> threads = new ArrayList<>();
        String[] said = new String[count];
        for (int n = 0; n < count; n++) {
            int number = n;
            Thread thread = new Thread(() -> {
                try {
                    said[number] = client.run(number).toString();
                } catch (Exception error) {
                    said[number] = error.toString();
                }
            });
            threads.add(thread);
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        for (String line : said) {
            System.out.println(line);
        }
    }
}
