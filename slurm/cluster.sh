#!/bin/bash
# A private, real Slurm cluster on this one machine: no systemd, no cgroups, nothing in /etc. It listens on 127.0.0.1.
#
#   cluster.sh up DIR [NODES] [CPUS]   prints `export SLURM_CONF=...`; 4 nodes of 2 processors unless told; takes 3 s
#   cluster.sh down DIR                stops it with its jobs; its logs and state stay, and `up` goes on from there
#
# Partitions: main; low, whose jobs are requeued for those of main and high; high.
# Root or an ordinary user, whose jobs run as that user alone.
# From the environment: ACCOUNTING=0 leaves out slurmdbd, so that sacct fails. Seconds: MIN_JOB_AGE for which ended jobs
# are remembered (3600), KILL_WAIT from SIGTERM to SIGKILL (5), GRACE_TIME from the signal of a preemption to its end
# (10), SLURMD_TIMEOUT until a silent node is down (10), REQUEUE_DELAY until a requeued job may start again (5).
# MAX_ARRAY_SIZE (1001), KILL_INVALID_DEPEND=0 keeps dependents of failed jobs pending, NODE_PREFIX (127.0.0.).
set -euo pipefail
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

tell() { printf 'export SLURM_CONF=%q\n' "$SLURM_CONF"; } # for eval: a name may hold $( ) and ;
say() { echo "cluster.sh: $*" >&2; }
refuse() { say "$*"; exit 2; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }

# a stopped daemon stays a zombie where nobody collects it, and kill -0 would call it alive
alive() { grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status" 2>/dev/null; }

# processes come and go while one looks, which grep and find report as failure
matching() { { grep -lz "$@" 2>/dev/null || true; } | cut -d/ -f3 | sort; }

# Process ids of this cluster. Daemons carry CLUSTER_SH in their environment; slurmstepd writes its title over its own,
# and keeps slurmd's log open; what jobs started has the cluster's SLURM_CONF and a job id.
processes() {
  local pid
  {
    matching -Fx "CLUSTER_SH=$D" /proc/[0-9]*/environ
    comm -12 <(matching -Fx "SLURM_CONF=$D/slurm.conf" /proc/[0-9]*/environ) \
      <(matching '^SLURM_JOB_ID=' /proc/[0-9]*/environ)
    { find /proc/[0-9]*/fd -maxdepth 1 -lname "$D/log/slurmd.*" 2>/dev/null || true; } | cut -d/ -f3
    cat "$D"/run/*.pid 2>/dev/null || true
  } | sort -un | while read -r pid; do
    case $(cat "/proc/$pid/comm" 2>/dev/null) in
      munged | mariadbd | slurmdbd | slurmctld | slurmscriptd | slurmd | slurmstepd) ;;
      # a PID file's number may have gone to another program meanwhile
      *) grep -qz "^SLURM_JOB_ID=" "/proc/$pid/environ" 2>/dev/null || continue ;;
    esac
    if [ "$pid" != "$$" ] && alive "$pid"; then echo "$pid"; fi
  done
}

end() { # SIGNAL SECONDS PID...: signals and waits; false when one is still there
  local signal=$1 seconds=$2 pid left
  shift 2
  for pid in "$@"; do kill "-$signal" "$pid" 2>/dev/null || true; done
  for _ in $(seq $((seconds * 20))); do
    left=""
    for pid in "$@"; do if alive "$pid"; then left=1; fi; done
    [ -n "$left" ] || return 0
    sleep 0.05
  done
  return 1
}

named() { # NAME: ids among the cluster's processes
  local pid
  for pid in $(processes); do
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ]; then echo "$pid"; fi
  done
}

down() {
  local name ids
  # Jobs first, while slurmd can still end them. submitit's tasks ignore SIGTERM, and without SIGKILL they and their
  # slurmstepd outlive slurmd.
  if [ -n "$(named slurmctld)" ] && timeout 5 scancel --me --state=PENDING 2>/dev/null; then
    timeout 5 scancel --me --full --signal=KILL 2>/dev/null || true
    timeout 5 scancel --me 2>/dev/null || true
    for _ in $(seq 60); do
      [ -n "$(timeout 5 squeue -h -t R,CG,S,ST,SO 2>/dev/null)" ] || break
      sleep 0.1
    done
  fi
  for name in slurmd slurmctld slurmdbd mariadbd munged; do
    mapfile -t ids < <(named $name)
    # a stopped process takes no SIGTERM, so the rest gets SIGKILL
    if [ ${#ids[@]} -gt 0 ]; then end TERM 10 "${ids[@]}" || end KILL 2 "${ids[@]}" || true; fi
  done
  for _ in 1 2 3; do
    mapfile -t ids < <(processes)
    [ ${#ids[@]} -gt 0 ] || return 0
    end KILL 2 "${ids[@]}" || true
  done
  say "still running: ${ids[*]}"
  return 1
}

wait_for() { # WHAT LOG SECONDS COMMAND...
  local what=$1 log=$2
  local tries=$(($3 * 10))
  shift 3
  for _ in $(seq $tries); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  say "$what does not answer: $("$@" 2>&1 | tail -n 1); last line of $log: $(tail -n 1 "$log" 2>/dev/null)"
  return 1
}

require() { # PACKAGE PROGRAM...
  local package=$1 program
  shift
  for program in "$@"; do
    if ! command -v "$program" >/dev/null; then MISSING+=("$program"); PACKAGES+=" $package"; return 0; fi
  done
}

check() {
  case $D in
    *[[:space:][:cntrl:]\#%,=\"\'\\\*\?\[\]]*)
      refuse "$(printf %q "$D") must hold no white space and none of # % , = \" ' \\ * ? [ ], which Slurm's files cannot hold; choose another folder" ;;
  esac
  MISSING=() PACKAGES=""
  require slurm-wlm slurmctld slurmd sbatch srun scontrol squeue sinfo
  require munge munged mungekey munge
  require python3 python3
  if [ "$ACCOUNTING" != 0 ]; then
    require slurmdbd slurmdbd
    require mariadb-server mariadbd mariadb-install-db mariadb-admin
  fi
  if [ -n "$PACKAGES" ]; then
    refuse "${MISSING[*]} missing; as root: apt-get install --no-install-recommends$PACKAGES"
  fi
  # the sockets of job steps, DIR/spool/NODE/NODE_JOB.STEP, must fit into 108 characters
  [ ${#D} -le 50 ] || refuse "$D has ${#D} characters and must have at most 50 (unix sockets lie below it); choose a shorter one"
  mkdir -p "$D"/{munge,state,spool,log,run} 2>/dev/null && [ -w "$D" ] ||
    refuse "$D cannot be written by $(id -un); choose a folder of your own, such as /tmp/slurm-$(id -un)"
}

free_ports() { # COUNT: the first of a run of free ports, below those that the system gives to clients (32768 on)
  python3 - "$1" <<'PY'
import random, socket, sys
count = int(sys.argv[1])
while True:
    first = random.randrange(20000, 32000)
    try:
        for port in range(first, first + count):
            with socket.socket() as one:
                one.bind(("0.0.0.0", port))
    except OSError:
        continue
    print(first)
    break
PY
}

configure() { # NODES CPUS
  local host user port parameters="" bound="" nodes="${NODE_PREFIX:-127.0.0.}[1-$1]"
  host=$(hostname -s) user=$(id -un) port=$(free_ports $(($1 + 3)))
  if [ "${KILL_INVALID_DEPEND:-1}" != 0 ]; then parameters="DependencyParameters=kill_invalid_depend"; fi
  # Slurm can listen on all addresses, or on the one that this machine's name leads to
  case $(getent ahostsv4 "$(hostname)") in
    127.*) bound="CommunicationParameters=NoInAddrAny,NoCtldInAddrAny" ;;
    *) say "$(hostname) is not the name of 127.0.0.1 here, so Slurm listens on all addresses, where munge's key keeps" \
      "others out; a line '127.0.0.1 $(hostname)' in front of /etc/hosts changes that" ;;
  esac
  # two devices that exist everywhere stand for GPUs: scheduled and numbered in CUDA_VISIBLE_DEVICES as real ones
  echo "NodeName=$nodes Name=gpu File=/dev/null,/dev/zero" >"$D/gres.conf"
  # Nodes are named as addresses, because submitit takes MASTER_ADDR from the node list and other names do not resolve.
  # cred_expire is the delay of a requeue, 120 s unless told.
  cat >"$D/slurm.conf" <<CONF
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
$bound
AuthType=auth/munge
AuthInfo=socket=$D/munge/munge.socket,cred_expire=${REQUEUE_DELAY:-5}
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmdPidFile=$D/run/slurmd.%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_interval=2
MaxArraySize=${MAX_ARRAY_SIZE:-1001}
JobRequeue=1
ReturnToService=2
SlurmdTimeout=${SLURMD_TIMEOUT:-10}
SlurmctldTimeout=30
MessageTimeout=10
KillWait=${KILL_WAIT:-5}
MinJobAge=${MIN_JOB_AGE:-3600}
$parameters
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$nodes NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 3))-$((port + 2 + $1))] CPUs=$2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=DEFAULT Nodes=ALL DefaultTime=5 MaxTime=INFINITE DefMemPerCPU=100 State=UP
PartitionName=main Default=YES PriorityTier=5 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=${GRACE_TIME:-10}
PartitionName=high PriorityTier=9 PreemptMode=OFF
CONF
  [ "$ACCOUNTING" != 0 ] || return 0
  cat >>"$D/slurm.conf" <<CONF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 1))
AccountingStoragePass=$D/munge/munge.socket
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=10
CONF
  cat >"$D/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$D/munge/munge.socket
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((port + 1))
$bound
SlurmUser=$user
DebugLevel=info
LogFile=$D/log/slurmdbd.log
PidFile=$D/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
CONF
  chmod 600 "$D/slurmdbd.conf" # slurmdbd refuses any other mode, and any other place than beside slurm.conf
}

accounting() {
  (umask 077 && mkdir -p "$D/mysql" && chmod 700 "$D/mysql") # whoever reaches the socket is the database's root
  [ -d "$D/mysql/data/mysql" ] || mariadb-install-db --no-defaults --user="$(id -un)" --datadir="$D/mysql/data" \
    --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve >"$D/log/mysql-install.log" 2>&1
  setsid mariadbd --no-defaults --user="$(id -un)" --datadir="$D/mysql/data" --socket="$D/mysql/mysql.sock" \
    --pid-file="$D/run/mariadbd.pid" --skip-networking --innodb-buffer-pool-size=32M --innodb-log-file-size=8M \
    --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 --performance-schema=OFF \
    --log-error="$D/log/mysql.log" </dev/null >/dev/null 2>&1 &
  wait_for mariadbd "$D/log/mysql.log" 60 mariadb-admin --no-defaults --socket="$D/mysql/mysql.sock" -u root ping
  MYSQL_UNIX_PORT="$D/mysql/mysql.sock" slurmdbd # libmariadb takes the socket from there
  wait_for slurmdbd "$D/log/slurmdbd.log" 30 sacctmgr -n list cluster
}

idle() { [ "$(sinfo -h -N -p main -o %t | grep -c '^idle$')" = "$1" ]; }

up() { # NODES CPUS
  local node
  if [ -n "$(processes)" ]; then
    if timeout 5 scontrol ping 2>/dev/null | grep -q UP; then
      say "$D is up already"
      tell
      return 0
    fi
    say "$D holds remains of a cluster that does not answer; stopping them"
    down
  fi
  check
  # reached by any way out, exit and Ctrl-C too: nothing half-started stays
  trap 'status=$?; trap - EXIT; say "not up; stopping what has started"; down; exit $((status ? status : 1))' EXIT
  trap 'exit 130' INT TERM
  export CLUSTER_SH=$D
  chmod 755 "$D" "$D/munge" # munged refuses a socket whose folder others cannot enter
  rm -f "$D"/run/*.pid
  configure "$1" "$2"
  [ -f "$D/munge/munge.key" ] || mungekey --create --keyfile "$D/munge/munge.key"
  munged --key-file="$D/munge/munge.key" --socket="$D/munge/munge.socket" --pid-file="$D/run/munged.pid" \
    --log-file="$D/log/munged.log" --seed-file="$D/munge/munged.seed" --num-threads=4
  wait_for munged "$D/log/munged.log" 10 munge -S "$D/munge/munge.socket" -n
  if [ "$ACCOUNTING" != 0 ]; then accounting; fi
  slurmctld
  wait_for slurmctld "$D/log/slurmctld.log" 15 scontrol ping
  for node in $(seq "$1"); do
    node=${NODE_PREFIX:-127.0.0.}$node
    mkdir -p "$D/spool/$node"
    slurmd -N "$node"
  done
  wait_for "one of the $1 nodes" "$D/log/slurmctld.log" 20 idle "$1"
  trap - EXIT INT TERM
  tell
}

number() { [[ $1 =~ ^[1-9][0-9]{0,2}$ ]] || refuse "$1 must be a number from 1 to 999"; }

ACCOUNTING=${ACCOUNTING:-1}
[ $# -ge 2 ] || usage
# not the path as the file system spells it: DIR may not exist yet
D=$(realpath -m -- "$2")
export SLURM_CONF=$D/slurm.conf
case $1 in
  up) number "${3:-4}"; number "${4:-2}"; up "${3:-4}" "${4:-2}" ;;
  down) down ;;
  *) usage ;;
esac
