#compdef PROGRAM
# zsh completion for PROGRAM
_PROGRAM() {
    local out directive line name
    local -a lines candidates
    out=$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null) || return 1
    lines=("${(@f)out}")
    # The last line is a number: 4 wants no file names.
    directive=${lines[-1]#:}
    lines[-1]=()
    for line in "${(@)lines}"; do
        [[ -z $line ]] && continue
        name=${line%%$'\t'*}
        name=${name//:/\\:}
        if [[ $line == *$'\t'* ]]; then
            candidates+=("${name}:${line#*$'\t'}")
        else
            candidates+=("$name")
        fi
    done
    if (( ${#candidates} )); then
        _describe 'PROGRAM' candidates
    elif (( ! (directive & 4) )); then
        _files
    fi
}
if [ "$funcstack[1]" = "_PROGRAM" ]; then
    _PROGRAM "$@"
else
    compdef _PROGRAM PROGRAM
fi
