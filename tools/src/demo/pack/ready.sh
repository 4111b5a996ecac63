# The demo's application where there is no other language: ready once it has used a few tools.
if [ "$1" = tell ]; then
    echo "name a shell"
    while read -r _ _ _ _ _ path; do
        case "$path" in /*) echo "file $path" ;; esac
    done </proc/self/maps
else
    ls -l / /etc >/dev/null && cat /etc/passwd | sort | uniq | wc -l >/dev/null && echo ready
fi
