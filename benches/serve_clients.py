"""Tokens a second that a server gives to one client and to several at the same time.

    emberlm train --plain --run m --set model.d_model=384 --set model.n_layers=6 \\
        --set model.n_heads=6 --set model.context_length=256 --set model.tied_head=false \\
        --set train.steps=1 --set train.batch_size=1 --set data.train_stories=50 \\
        --set data.validation_stories=5
    emberlm serve m --port 8000 &
    python benches/serve_clients.py http://127.0.0.1:8000 --clients 1 16

That run is of shape m, of which one step is enough: what is written does not matter, and its
tokenizer, of characters, has no token that ends a text. Each client asks for one text after the
other, whole, with a connection of its own. Rounds take turns; medians are printed as JSON.
"""

import argparse
import http.client
import json
import statistics
import threading
import time
import urllib.parse


def client(address, body, until, counts, number):
    connection = http.client.HTTPConnection(address)
    while time.perf_counter() < until:
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        # The last text of a client may end after the others': a part of it counts.
        counts[number].append((time.perf_counter(), answer["usage"]["completion_tokens"]))


def tokens_per_second(address, body, clients, seconds):
    counts = [[] for _ in range(clients)]
    start = time.perf_counter()
    until = start + seconds
    threads = [
        threading.Thread(target=client, args=(address, body, until, counts, number))
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = 0
    for ended in counts:
        before = start
        for end, tokens in ended:
            total += tokens * min(1.0, max(0.0, until - before) / (end - before))
            before = end
    return total / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=200, help="of each text")
    parser.add_argument("--seconds", type=float, default=5, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    address = urllib.parse.urlsplit(args.url).netloc
    body = json.dumps({"prompt": "a", "max_tokens": args.tokens, "temperature": 0})
    tokens_per_second(address, body, 1, 0.5)
    rates = {count: [] for count in args.clients}
    for _ in range(args.rounds):
        for count in args.clients:
            rates[count].append(tokens_per_second(address, body, count, args.seconds))
    medians = {count: statistics.median(found) for count, found in rates.items()}
    print(json.dumps({
        "bench": "serve",
        "tokens_per_s": {count: round(rate) for count, rate in medians.items()},
        "times_the_first": {
            count: round(rate / medians[args.clients[0]], 2) for count, rate in medians.items()
        },
        "rounds": {count: [round(rate) for rate in found] for count, found in rates.items()},
    }))


main()
