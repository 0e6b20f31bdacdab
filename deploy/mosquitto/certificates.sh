#!/usr/bin/env bash
# Certificates for the boxes, the gateways and the broker, with openssl alone.
#   certificates.sh init DIR HOST     two authorities (boxes, gateways) and the broker's certificate for HOST
#   certificates.sh box DIR ID        a certificate for one box: DIR/boxes/ID.crt and ID.key
#   certificates.sh gateway DIR NAME  one for a gateway: DIR/gateways/NAME.crt and NAME.key
#   certificates.sh revoke DIR ID     lock a box out; copy DIR/boxes.crl to the broker and reload it
# Keep DIR off the broker and off the boxes: whoever has its keys can make new boxes.
set -euo pipefail
umask 077

fail() { echo "certificates.sh: $*" >&2; exit 2; }

authority() { # DIR NAME
  mkdir -p "$1"
  cd "$1"
  [ -e ca.key ] && fail "$1 holds an authority already"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt \
    -days 7300 -subj "/CN=trisense $2" 2>/dev/null
  touch index.txt
  echo 01 >serial
  echo 01 >crlnumber
  cat >ca.cnf <<'CNF'
[ca]
default_ca = trisense
[trisense]
database = index.txt
serial = serial
crlnumber = crlnumber
new_certs_dir = .
certificate = ca.crt
private_key = ca.key
default_md = sha256
default_days = 1825
default_crl_days = 1825
policy = name
copy_extensions = copy
unique_subject = no
[name]
commonName = supplied
CNF
}

issue() { # DIR NAME [EXTENSION]
  cd "$1"
  [ -e ca.key ] || fail "no authority in $1: run init first"
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$2.key" -out "$2.csr" \
    -subj "/CN=$2" ${3:+-addext "$3"} 2>/dev/null
  openssl ca -batch -config ca.cnf -in "$2.csr" -out "$2.crt" -notext 2>/dev/null
  rm "$2.csr"
}

revoked() { # DIR
  (cd "$1/boxes" && openssl ca -config ca.cnf -gencrl -out ../boxes.crl 2>/dev/null)
}

# A name becomes a topic level and a file name; "+" and "#" would be wildcards there.
named() { [[ $1 =~ ^[a-z0-9][a-z0-9-]{0,31}$ ]] || fail "a name is [a-z0-9][a-z0-9-]{0,31}, not $1"; }

[ $# = 3 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$2"
directory=$(cd "$2" && pwd)
case $1 in
  init)
    (authority "$directory/boxes" boxes)
    (authority "$directory/gateways" gateways)
    if [[ $3 =~ ^[0-9.]+$|: ]]; then name="IP:$3"; else name="DNS:$3"; fi
    (issue "$directory/gateways" broker "subjectAltName=$name")
    mv "$directory/gateways/broker.crt" "$directory/gateways/broker.key" "$directory"
    cp "$directory/boxes/ca.crt" "$directory/boxes-ca.crt"
    cp "$directory/gateways/ca.crt" "$directory/gateways-ca.crt"
    revoked "$directory"
    ;;
  box) named "$3"; (issue "$directory/boxes" "$3") ;;
  gateway) named "$3"; (issue "$directory/gateways" "$3") ;;
  revoke)
    [ -e "$directory/boxes/$3.crt" ] || fail "no box $3 in $directory"
    (cd "$directory/boxes" && openssl ca -config ca.cnf -revoke "$3.crt" 2>/dev/null)
    revoked "$directory"
    ;;
  *) fail "init, box, gateway or revoke, not $1" ;;
esac
