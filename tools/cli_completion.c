/* Starling: `completion`: shell scripts from the tables of verbs and options. */
#include "tools/cli.h"

#include <stdio.h>
#include <string.h>

static void print_option_names(const struct option *options) {
    for (const struct option *o = options; o && o->name; o++)
        printf("%s ", o->name);
}

static void print_verb_names(void) {
    for (const struct verb *v = cli_verbs; v->name; v++) {
        if (v->run)
            printf("%s ", v->name);
    }
}

/* A first word of the form a|b|c is a choice. */
static bool has_choices(const char *words) { return *words != '[' && memchr(words, '|', strcspn(words, " ")); }

static void print_choices(const char *words) {
    for (const char *c = has_choices(words) ? words : ""; *c && *c != ' '; c++)
        putchar(*c == '|' ? ' ' : *c);
}

static void print_bash(void) {
    printf("# starling: completion for bash: eval \"$(starling completion bash)\"\n"
           "_starling() {\n"
           "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= i words=\n"
           "    COMPREPLY=()\n"
           "    case $prev in\n"
           "        --instance) mapfile -t COMPREPLY < <(compgen -d -- \"$cur\"); return ;;\n"
           "        --socket) mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); return ;;\n"
           "    esac\n"
           "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
           "        case ${COMP_WORDS[i]} in\n"
           "            --instance | --socket) ((i++)) ;;\n"
           "            -*) ;;\n"
           "            *) verb=${COMP_WORDS[i]}; break ;;\n"
           "        esac\n"
           "    done\n"
           "    case $verb in\n");
    printf("        '') words='");
    print_verb_names();
    printf("' ;;\n");
    for (const struct verb *v = cli_verbs; v->name; v++) {
        bool choices = has_choices(v->words);
        if (!v->run || (!v->options && !choices && strcmp(v->name, "help")))
            continue;
        printf("        %s) words='", v->name);
        print_option_names(v->options);
        print_choices(v->words);
        if (!strcmp(v->name, "help"))
            print_verb_names();
        printf("' ;;\n");
    }
    printf("    esac\n"
           "    mapfile -t COMPREPLY < <(compgen -W \"$words ");
    print_option_names(cli_options);
    printf("\" -- \"$cur\")\n"
           "}\n"
           "complete -F _starling starling\n");
}

/* Text inside single quotes, for zsh's and fish's descriptions. */
static void print_quoted(const char *text, const char *escaped) {
    for (; *text; text++) {
        if (*text == '\'') {
            printf("'\\''");
            continue;
        }
        if (strchr(escaped, *text))
            putchar('\\');
        putchar(*text);
    }
}

static void print_zsh_options(const struct option *options) {
    for (const struct option *o = options; o && o->name; o++) {
        printf(" \\\n                '%s%s[", o->name, o->value && o->name[1] == '-' ? "=" : "");
        print_quoted(o->summary, "[]");
        printf("]");
        if (o->value)
            printf(":%s:%s", o->value, !strcmp(o->value, "DIR") ? "_files -/" : !strcmp(o->value, "PATH") ? "_files" : "");
        printf("'");
    }
}

static void print_zsh(void) {
    printf("#compdef starling\n"
           "# starling: completion for zsh: starling completion zsh > ~/.zfunc/_starling (a folder in fpath)\n"
           "_starling() {\n"
           "    local state line\n"
           "    local -a verbs=(\n");
    for (const struct verb *v = cli_verbs; v->name; v++) {
        if (!v->run)
            continue;
        printf("        '%s:", v->name);
        print_quoted(v->summary, ":");
        printf("'\n");
    }
    printf("    )\n"
           "    _arguments -C");
    print_zsh_options(cli_options);
    printf(" \\\n        '1:verb:->verb' '*::argument:->rest'\n"
           "    case $state in\n"
           "        verb) _describe verb verbs ;;\n"
           "        rest) case $line[1] in\n");
    for (const struct verb *v = cli_verbs; v->name; v++) {
        bool choices = has_choices(v->words);
        if (!v->run || (!v->options && !choices))
            continue;
        printf("            %s) _arguments", v->name);
        print_zsh_options(v->options);
        if (choices) {
            printf(" '1:choice:(");
            print_choices(v->words);
            printf(")'");
        }
        printf(" ;;\n");
    }
    printf("            help) _describe verb verbs ;;\n"
           "        esac ;;\n"
           "    esac\n"
           "}\n"
           "if [ \"$funcstack[1]\" = _starling ]; then _starling \"$@\"; else compdef _starling starling; fi\n");
}

static void print_fish_option(const char *condition, const struct option *o) {
    printf("complete -c starling%s%s%s", *condition ? " -n '" : "", condition, *condition ? "'" : "");
    printf(" %s %s%s -d '", o->name[1] == '-' ? "-l" : "-s", o->name + (o->name[1] == '-' ? 2 : 1),
           !o->value                                               ? ""
           : !strcmp(o->value, "DIR") || !strcmp(o->value, "PATH") ? " -rF"
                                                                   : " -x");
    print_quoted(o->summary, "");
    printf("'\n");
}

static void print_fish(void) {
    printf("# starling: completion for fish: starling completion fish > ~/.config/fish/completions/starling.fish\n"
           "complete -c starling -f\n");
    for (const struct option *o = cli_options; o->name; o++)
        print_fish_option("", o);
    for (const struct verb *v = cli_verbs; v->name; v++) {
        char condition[TEXT_MAX];
        if (!v->run)
            continue;
        printf("complete -c starling -n __fish_use_subcommand -a %s -d '", v->name);
        print_quoted(v->summary, "");
        printf("'\n");
        snprintf(condition, sizeof condition, "__fish_seen_subcommand_from %s", v->name);
        for (const struct option *o = v->options; o && o->name; o++)
            print_fish_option(condition, o);
        if (has_choices(v->words)) {
            printf("complete -c starling -n '%s' -a '", condition);
            print_choices(v->words);
            printf("'\n");
        }
    }
}

int verb_completion(struct cli *cli) {
    const char *shell = cli->words[0];
    if (!strcmp(shell, "bash")) {
        print_bash();
    } else if (!strcmp(shell, "zsh")) {
        print_zsh();
    } else if (!strcmp(shell, "fish")) {
        print_fish();
    } else {
        complain("no completion for \"%s\": one of bash, zsh, fish", shell);
        return EXIT_USAGE;
    }
    return EXIT_YES;
}
