# /etc/bash.bashrc: read by every interactive bash.
case $- in
  *i*) ;;
  *) return ;;
esac

shopt -s checkwinsize
if [ "$EUID" -eq 0 ]; then
  PS1='\u@\h:\w# '
else
  PS1='\u@\h:\w\$ '
fi
