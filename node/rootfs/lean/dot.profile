# ~/.profile: read by login shells unless ~/.bash_profile or ~/.bash_login exists.
# It runs before every command of a sandbox, so it starts no program.
for d in "$HOME/bin" "$HOME/.local/bin"; do
  case ":$PATH:" in
    *":$d:"*) ;;
    *) PATH="$d:$PATH" ;;
  esac
done
unset d

if [ "${BASH_VERSION-}" ] && [ -f "$HOME/.bashrc" ]; then
  . "$HOME/.bashrc"
fi
