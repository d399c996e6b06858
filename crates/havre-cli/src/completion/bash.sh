# bash completion for PROGRAM
__PROGRAM_complete() {
    local line=${COMP_LINE:0:COMP_POINT} cur out directive strip="" candidate
    local -a words
    read -ra words <<<"$line"
    [[ $line =~ [[:space:]]$ ]] && words+=("")
    cur=${words[${#words[@]} - 1]}
    out=$("${words[0]}" __complete "${words[@]:1}" 2>/dev/null) || return
    # The last line is a number: 2 adds no space, 4 wants no file names.
    directive=${out##*:}
    out=${out%:*}
    # Bash replaces only what is behind a colon or an equals sign.
    [[ $cur == *[:=]* && $COMP_WORDBREAKS == *:* ]] && strip=${cur%"${cur##*[:=]}"}
    COMPREPLY=()
    while IFS= read -r candidate; do
        candidate=${candidate%%$'\t'*}
        [[ -n $candidate && $candidate == "$cur"* ]] && COMPREPLY+=("${candidate#"$strip"}")
    done <<<"$out"
    if ((directive & 2)); then compopt -o nospace 2>/dev/null; fi
    if ((directive & 4)); then compopt +o default 2>/dev/null; fi
    return 0
}
complete -o default -F __PROGRAM_complete PROGRAM
