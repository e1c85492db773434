"""Examples of each command, for its --help and its man page: command lines that its parser takes."""

from __future__ import annotations

from typing import Final

EXAMPLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "run": (
        (
            "overlaykit run -- sh -c 'rm -r /usr/share/doc; ls /usr/share'",
            "try a change: it is dropped at the end",
        ),
        (
            "overlaykit run -l py27 -l host --upper changes -p 8080:80 -- python -m http.server 80",
            "a layer over the host, changes kept in a directory, a port published",
        ),
        (
            "overlaykit run -it --name dev -v .:/src -w /src -- bash",
            "a shell in a view that 'start -a dev' comes back to",
        ),
        (
            "overlaykit run -d --name web -m 512m --cpus 0.5 -- nginx -g 'daemon off;'",
            "a server in the background, with limits",
        ),
        ("overlaykit run web", "the app 'web' of overlaykit.toml"),
    ),
    "exec": (
        ("overlaykit exec web -- nginx -t", "a command beside the view's own"),
        ("overlaykit exec -it -u www-data web sh", "a shell as another user"),
    ),
    "create": (
        (
            "overlaykit create --name web -p 8080:80 -- nginx -g 'daemon off;'",
            "a view for 'overlaykit start web'",
        ),
    ),
    "try": (
        ("overlaykit try -- make install", "see what it does to the machine, then decide"),
        (
            "overlaykit try -D project --watch -- ./migrate.sh",
            "in one directory, with its changes as they happen",
        ),
        (
            "overlaykit try --keep fix --ignore node_modules -- npm test",
            "decide later: 'overlaykit apply fix'",
        ),
    ),
    "diff": (
        ("overlaykit diff web", "what a view has changed, also while it runs"),
        ("overlaykit diff --patch web /etc", "a patch of its configuration"),
        ("overlaykit diff --stat before..after", "how two views differ"),
        ("overlaykit diff dev@works..", "what a view has changed since a snapshot"),
    ),
    "apply": (
        ("overlaykit apply --dry-run web", "what would be written"),
        ("overlaykit apply web /etc/hosts /srv", "some of it"),
        ("overlaykit apply --undo web", "take it back"),
    ),
    "snapshot": (
        ("overlaykit snapshot dev", "what it has written until now; it prints an id"),
        ("overlaykit snapshot dev works -m 'the tests pass'", "with a name and a note"),
    ),
    "log": (
        ("overlaykit log dev", "the newest first"),
        ("overlaykit log --json dev", "for programs"),
    ),
    "restore": (
        ("overlaykit restore dev works", "what it has written since is kept as another snapshot"),
        ("overlaykit restore --discard dev start", "drop all, and begin again"),
    ),
    "branch": (
        ("overlaykit branch dev@works risky", "try something else from there"),
        ("overlaykit branch dev copy", "from what it is now"),
    ),
    "start": (
        ("overlaykit start web", "in the background"),
        ("overlaykit start -a dev", "with this terminal"),
    ),
    "stop": (
        ("overlaykit stop web db", "two views, one after the other"),
        ("overlaykit stop -t 60 db", "with a minute to end"),
    ),
    "kill": (
        ("overlaykit kill -s HUP web", "have it read its configuration again"),
        ("overlaykit kill web", "end all in it at once"),
    ),
    "wait": (
        ("overlaykit wait job", "print how it ended"),
        ("overlaykit wait --json job other", "of two, for programs"),
    ),
    "rm": (
        ("overlaykit rm web", "one that is stopped"),
        ("overlaykit rm -f web db", "kill them first"),
    ),
    "layers": (
        ("overlaykit layers web push py313", "programs get the layer's files at their next open"),
        ("overlaykit layers web ls --json", "which it has, for programs"),
    ),
    "rename": (("overlaykit rename web web-old", "keep it under another name"),),
    "logs": (
        ("overlaykit logs -f web", "and what comes, until it is stopped"),
        ("overlaykit logs --since 10m --json web", "of ten minutes, for programs"),
    ),
    "attach": (
        ("overlaykit attach web", "follow what it prints"),
        ("overlaykit attach --detach-keys ctrl-x,x dev", "with keys of one's own to leave it"),
    ),
    "inspect": (("overlaykit inspect web", "all about a view, as JSON"),),
    "top": (("overlaykit top web", "its processes"),),
    "stats": (
        ("overlaykit stats", "all views, live"),
        ("overlaykit stats --no-stream web", "one view, once"),
    ),
    "generate": (("overlaykit generate systemd web", "a unit that starts it with the machine"),),
    "cp": (
        ("overlaykit cp web:/etc/nginx nginx", "out of a view"),
        ("overlaykit cp nginx.conf web:/etc/nginx/", "into it"),
    ),
    "up": (
        ("overlaykit up", "all apps of the profile"),
        ("overlaykit up -f test/overlaykit.toml web", "one, and what it depends on"),
    ),
    "down": (
        ("overlaykit down", "all apps"),
        ("overlaykit down --rm web", "one, with what it wrote"),
    ),
    "mount": (
        (
            "overlaykit mount -o lowerdir=top:bottom,upperdir=changes,workdir=work merged",
            "two layers, writable",
        ),
        ("overlaykit mount -o lowerdir=top:bottom merged", "read-only"),
    ),
    "umount": (
        ("overlaykit umount merged", "once nothing uses it"),
        ("overlaykit umount --lazy merged", "when its last user has ended"),
    ),
    "layer": (
        ("overlaykit layer add py27 tar:python-2.7.tar.gz", "of an archive"),
        ("overlaykit layer add py313 deb:python3.13@trixie", "of Debian packages"),
        ("overlaykit layer ls --json", "all, for programs"),
        ("overlaykit layer rm py27", "one less"),
    ),
    "ps": (
        ("overlaykit ps -a", "those that are stopped, too"),
        ("overlaykit ps --filter label=tier=web --json", "some, for programs"),
        ("overlaykit ps --apps --watch", "the apps of the profile, live"),
    ),
    "trace": (
        ("overlaykit trace web", "what the programs of a running view do with files, until Ctrl-C"),
        (
            "overlaykit trace --only missed,executed -o used -- make",
            "a command from its start; all events in a file for 'slim'",
        ),
    ),
    "slim": (
        (
            "overlaykit slim -o small -- python3 -m compileall .",
            "run it, and make a layer of what it used",
        ),
        ("overlaykit slim --from used -o small", "of what a trace says"),
    ),
    "explain": (("overlaykit explain web /usr/bin/python3", "where the file comes from"),),
    "server": (
        ("overlaykit server status", "whether it runs"),
        ("overlaykit server stop", "end it"),
    ),
    "completion": (
        ("overlaykit completion bash", "the script for bash"),
        ("overlaykit completion --names views", "the names that it completes"),
    ),
    "doctor": (
        ("overlaykit doctor", "what this machine can do"),
        ("overlaykit doctor --json", "the same for programs"),
    ),
    "bench": (
        ("overlaykit bench --quick", "a selection, in two minutes"),
        ("overlaykit bench --only 'start/*' --json", "what a start costs, for programs"),
    ),
    "compare": (
        ("overlaykit compare -- python3 -c pass", "the start of Python as a process and in views"),
        ("overlaykit compare --only view --output report -- make", "the drivers, with plots"),
    ),
    "mount.fuse.overlaykit": (
        (
            "mount -t fuse.overlaykit -o lowerdir=top:bottom overlaykit merged",
            "as mount(8) calls it",
        ),
    ),
}
