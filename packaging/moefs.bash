# bash completion for moefs

_moefs() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words=
    local layouts='v5 original per-expert stacked merged in-out up-first torchtitan interleaved in-out-interleaved flat'
    COMPREPLY=()
    case $previous in
    --to | --from)
        if [[ $current == */* ]]; then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
        fi
        words=$layouts
        ;;
    --fp8) words=keep ;;
    --layout) words=$layouts ;;
    --like) words='qwen3-30b-a3b qwen3-vl-30b-a3b gpt-oss-20b' ;;
    --source-cache) words='keep drop' ;;
    --order) words='after before-down' ;;
    --cache-size | --readahead | --kernel-read-ahead | --exclude | --layers | --experts | --hidden | --intermediate | --shards | --seed | --jobs | --tokens | --max-shard-size | --explain | -o) return ;;
    esac
    if [[ $previous == --log-file || $previous == --check || $previous == --*-digests || $previous == --write-outputs ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
    fi
    if [[ -z $words ]]; then
        case $COMP_CWORD,${COMP_WORDS[1]} in
        1,*) words='mount umount convert plan verify sample layouts help --help --version' ;;
        2,help) words='mount umount convert plan verify sample layouts' ;;
        *,mount) words='--to --from --fp8 --max-shard-size --cache-size --readahead --kernel-read-ahead --source-cache --passthrough --follow-symlinks --exclude --foreground --log-file -o --help' ;;
        *,umount) words='--lazy --help' ;;
        *,convert) words='--to --from --fp8 --max-shard-size --jobs --cache-size --dry-run --follow-symlinks --exclude --help' ;;
        *,layouts) words='--check --help' ;;
        *,plan) words='--to --from --fp8 --max-shard-size --explain --follow-symlinks --exclude --json --help' ;;
        *,verify) words='--to --from --fp8 --max-shard-size --layers --tokens --seed --order --source --write-digests --check-digests --write-outputs --json --follow-symlinks --exclude --help' ;;
        *,sample)
            words='--layers --experts --hidden --intermediate --layout --shards --seed --like --sparse --help'
            ((COMP_CWORD == 2)) && words+=' qwen3_moe qwen3_vl_moe qwen3_5_moe gpt_oss'
            ;;
        *) words=--help ;;
        esac
        if [[ $COMP_CWORD -gt 1 && $current != -* && ! (${COMP_WORDS[1]} == sample && $COMP_CWORD -eq 2) && ${COMP_WORDS[1]} != help ]]; then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -d -- "$current")
            return
        fi
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F _moefs moefs
