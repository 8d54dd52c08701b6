"""Clients that run at the same time, each in a thread of its own."""
import threading


def run_at_once(count, client):
    """Runs `client` for each number below `count`, and prints what each has said in the list that it was given."""
    results = [[] for _ in range(count)]
    threads = [threading.Thread(target=client, args=(number, said)) for number, said in enumerate(results)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for said in results:
        print(said)
