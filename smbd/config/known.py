"""Parameters that smb.conf knows and that change nothing here, so that they can be told from a slip of the pen.

Owns: the list of names. A name leaves it when it becomes a field of ``Config`` or ``Share`` (a test sees to it).
"""

from __future__ import annotations

_NAMES = """
abort shutdown script, acl check permissions, acl group control, acl map full control, add group
script, add machine script, add share command, add user script, add user to group script, additional dns hostnames, addport command,
addprinter command, administrative share, afs share, afs token lifetime, afs username map, aio max threads, aio read size, aio write
behind, aio write size, algorithmic rid base, allocation roundup size, allow dcerpc auth level connect, allow dns updates, allow insecure
wide links, allow nt4 crypto, allow trusted domains, allow unsafe cluster upgrade, apply group policies, async dns timeout, async smb echo
handler, auth event notification, auto services, bind dns directory, binddns dir, block size, blocking locks, browse list, cache
directory, case sensitive, casesignames, change share command, check parent directory delete on close, check password
script, cldap port, client ipc max protocol, client ipc min protocol, client ipc signing, client lanman auth, client ldap sasl wrapping,
client max protocol, client min protocol, client NTLMv2 auth, client plaintext auth, client protection, client schannel, client signing,
client smb encrypt, client smb3 encryption algorithms, client smb3 signing algorithms, client use kerberos, client use spnego, client use
spnego principal, cluster addresses, clustering, config backend, config file, create krb5 conf, ctdb locktime warn threshold, ctdb
timeout, ctdbd socket, cups connection timeout, cups encrypt, cups options, cups server, dcerpc endpoint servers, debug class, debug
encryption, debug hires timestamp, debug pid, debug prefix timestamp, debug syslog format, debug timestamp, debug uid, dedicated keytab
file, default, default case, default devmode, default service, defer sharing violations, delete group script, delete
share command, delete user from group script, delete user script, deleteprinter command, dfree cache time, dfree
command, dgram port, directory name cache size, disable netbios, disable spoolss, dmapi support, dns forwarder, dns port, dns proxy, dns
update command, dns zone scavenging, dns zone transfer clients allow, dns zone transfer clients deny, domain logons, domain master, dos
charset, dos filemode, dos filetime resolution, dos filetimes, dsdb event notification, dsdb group change notification, dsdb
password event notification, enable asu support, enable core files, enable privileges, enable spoolss, encrypt passwords,
enhanced browsing, enumports command, eventlog list, exec, fake directory create times, fake oplocks, force printername, force unknown acl
user, fstype, get quota command, getwd cache, gpo update command, hide special files,
honor change notify privilege, hostname lookups, idmap backend, idmap cache time, idmap gid, idmap negative cache time,
idmap uid, include system krb5 conf, inherit acls, inherit owner, inherit permissions, init logon delay, init logon delayed hosts, iprint
server, kdc default domain supported enctypes, kdc enable fast, kdc force enable rc4 weak session keys, kdc supported enctypes, keepalive,
kerberos encryption types, kerberos method, kernel oplocks, kernel share modes, kpasswd port, krb5 port, lanman
auth, large readwrite, ldap admin dn, ldap connection timeout, ldap debug level, ldap debug threshold, ldap delete dn, ldap deref, ldap
follow referral, ldap group suffix, ldap idmap suffix, ldap machine suffix, ldap max anonymous request size, ldap max authenticated
request size, ldap max search request size, ldap page size, ldap passwd sync, ldap password sync, ldap replication sleep, ldap server
require strong auth, ldap ssl, ldap suffix, ldap timeout, ldap user suffix, lm announce, lm interval, load printers, local
master, lock spin time, locking, log nt token command, log writeable files on exit, logging, logon drive, logon home, logon path, logon
script, lppause command, lpq cache time, lpq command, lpresume command, lprm command, lsa over netlogon, machine password timeout, magic
output, magic script, mangle prefix, mangling char, mangling method, map acl inherit, map archive, map hidden, map
readonly, map system, max disk size, max log size, max mux, max print jobs, max reported print jobs, max stat cache size, max ttl, max
wins ttl, max xmit, mdns name, message command, min domain uid, min print space, min receivefile size, min wins ttl, mit kdc command,
multicast dns register, name cache timeout, name resolve order, nbt client socket
address, nbt port, ncalrpc dir, netbios aliases, netbios scope, neutralize nt4 emulation, nmbd bind explicit broadcast, nsupdate command,
nt acl support, nt hash store, nt pipe support, nt status support, ntlm auth, ntp signd socket directory, ntvfs handler, null passwords,
obey pam restrictions, old password allowed period, oplock break wait time, os level, os2 driver map, pam password change, panic
action, passdb backend, passdb expand explicit, passwd chat, passwd chat debug, passwd chat timeout, passwd program, password hash gpg key
ids, password hash userPassword schemes, password server, perfcount module, postexec, preexec, preexec close, prefered
master, preferred master, prefork backoff increment, prefork children, prefork maximum backoff, preload, preload modules, preserve case,
print command, print notify backchannel, print ok, printable, printcap, printcap cache time, printcap name, printer, printer name,
printing, printjob username, queuepause command, queueresume command, raw NTLMv2 auth, read raw, realm, registry shares, reject md5
clients, reject md5 servers, remote announce, remote browse sync, rename user script, require strong key, reset on zero vc, root, root
dir, root directory, root postexec, root preexec, root preexec close, rpc big endian, rpc server dynamic port range, rpc server port, rpc
start on demand helpers, samba kcc command, security, server role, server schannel, server schannel require
seal, server services, set primary group script, set quota command, short preserve case, show add printer wizard, shutdown script, smb1
unix extensions, smb2 disable oplock break retry, smbd async dosmode, smbd force process
locks, smbd getinfo ask sharemode, smbd max async dosmode, smbd max xattr size, smbd profiling level, smbd search ask sharemode, socket
address, spn update command, spotlight, spotlight backend, stat cache, strict allocate, strict locking, strict rename, svcctl list,
syslog, syslog only, template homedir, template shell, time server, timestamp logs, tls cafile, tls certfile, tls crlfile, tls dh params
file, tls enabled, tls keyfile, tls priority, tls verify peer, unicode, unix charset, unix extensions, unix password sync, use client
driver, use mmap, use sendfile, username level, username map cache time, username map script, usershare allow guests, usershare max
shares, usershare owner only, usershare path, usershare prefix allow list, usershare prefix deny list, usershare template share, utmp,
utmp directory, volume, volume serial number, wide links, winbind cache time,
winbind debug traceid, winbind enum groups, winbind enum users, winbind expand groups, winbind gid, winbind max clients, winbind max
domain connections, winbind nested groups, winbind normalize names, winbind nss info, winbind offline logon, winbind reconnect delay,
winbind refresh tickets, winbind request timeout, winbind rpc only, winbind scan trusted domains, winbind sealed pipes, winbind separator,
winbind uid, winbind use default domain, winbind use krb5 enterprise principals, winbindd socket directory, wins hook, wins proxy, wins
server, wins support, write raw, wtmp directory
"""

WITHOUT_EFFECT = tuple(name for name in " ".join(_NAMES.split()).split(", ") if name)
