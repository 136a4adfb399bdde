"""IOCTL and the structures its control codes carry: [MS-SMB2] 2.2.31, 2.2.32, and [MS-FSCC] 2.3 for those over files.

Owns: their layouts.
"""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import I64, U8, U16, U32, U64, Layout, Raw16, Raw24


class IoctlRequest(NamedTuple):
    """[MS-SMB2] 2.2.31 SMB2 IOCTL Request; the input buffer follows."""

    structure_size: U16
    reserved: U16
    ctl_code: U32
    file_id_persistent: U64
    file_id_volatile: U64
    input_offset: U32
    input_count: U32
    max_input_response: U32
    output_offset: U32
    output_count: U32
    max_output_response: U32
    flags: U32
    reserved2: U32


class IoctlResponse(NamedTuple):
    """[MS-SMB2] 2.2.32 SMB2 IOCTL Response; input and output buffers follow."""

    structure_size: U16
    reserved: U16
    ctl_code: U32
    file_id_persistent: U64
    file_id_volatile: U64
    input_offset: U32
    input_count: U32
    output_offset: U32
    output_count: U32
    flags: U32
    reserved2: U32


class SrvCopychunkCopy(NamedTuple):
    """[MS-SMB2] 2.2.31.1 SRV_COPYCHUNK_COPY; ChunkCount chunks follow."""

    source_key: Raw24
    chunk_count: U32
    reserved: U32


class SrvCopychunk(NamedTuple):
    """[MS-SMB2] 2.2.31.1.1 SRV_COPYCHUNK."""

    source_offset: U64
    target_offset: U64
    length: U32
    reserved: U32


class SrvCopychunkResponse(NamedTuple):
    """[MS-SMB2] 2.2.32.1 SRV_COPYCHUNK_RESPONSE."""

    chunks_written: U32
    chunk_bytes_written: U32
    total_bytes_written: U32


class SrvRequestResumeKeyResponse(NamedTuple):
    """[MS-SMB2] 2.2.32.3 SRV_REQUEST_RESUME_KEY Response; four bytes of empty Context follow."""

    resume_key: Raw24
    context_length: U32
    context: U32


class SrvSnapshotArray(NamedTuple):
    """[MS-SMB2] 2.2.32.2 SRV_SNAPSHOT_ARRAY; the names follow."""

    number_of_snap_shots: U32
    number_of_snap_shots_returned: U32
    snap_shot_array_size: U32


class NetworkResiliencyRequest(NamedTuple):
    """[MS-SMB2] 2.2.31.3 NETWORK_RESILIENCY_REQUEST."""

    timeout: U32
    reserved: U32


class ValidateNegotiateInfoRequest(NamedTuple):
    """[MS-SMB2] 2.2.31.4 VALIDATE_NEGOTIATE_INFO Request; Dialects follow."""

    capabilities: U32
    guid: Raw16
    security_mode: U16
    dialect_count: U16


class ValidateNegotiateInfoResponse(NamedTuple):
    """[MS-SMB2] 2.2.32.6 VALIDATE_NEGOTIATE_INFO Response."""

    capabilities: U32
    guid: Raw16
    security_mode: U16
    dialect: U16


class NetworkInterfaceInfo(NamedTuple):
    """[MS-SMB2] 2.2.32.5 NETWORK_INTERFACE_INFO Response; 128 bytes of SockAddr_Storage follow."""

    next: U32
    if_index: U32
    capability: U32
    reserved: U32
    link_speed: U64


class SockaddrIn(NamedTuple):
    """[MS-SMB2] 2.2.32.5.1.1 SOCKADDR_IN. Port and address are in network order on the wire."""

    family: U16
    port: U16
    ipv4_address: U32
    reserved: U64


class SockaddrIn6(NamedTuple):
    """[MS-SMB2] 2.2.32.5.1.2 SOCKADDR_IN6."""

    family: U16
    port: U16
    flow_info: U32
    ipv6_address: Raw16
    scope_id: U32


class FileZeroDataInformation(NamedTuple):
    """[MS-FSCC] 2.3.71 FSCTL_SET_ZERO_DATA Request."""

    file_offset: I64
    beyond_final_zero: I64


class FileAllocatedRangeBuffer(NamedTuple):
    """[MS-FSCC] 2.3.53 FSCTL_QUERY_ALLOCATED_RANGES Request, and each element of its reply."""

    file_offset: I64
    length: I64


class FileSetSparseBuffer(NamedTuple):
    """[MS-FSCC] 2.3.67 FSCTL_SET_SPARSE Request. An empty input means TRUE."""

    set_sparse: U8


class FileObjectIdBuffer(NamedTuple):
    """[MS-FSCC] 2.1.3.1 FILE_OBJECTID_BUFFER Type 1."""

    object_id: Raw16
    birth_volume_id: Raw16
    birth_object_id: Raw16
    domain_id: Raw16


class PipePeekReply(NamedTuple):
    """[MS-FSCC] 2.3.46 FSCTL_PIPE_PEEK Reply; data follow."""

    named_pipe_state: U32
    read_data_available: U32
    number_of_messages: U32
    message_length: U32


class PipeWaitRequest(NamedTuple):
    """[MS-FSCC] 2.3.49 FSCTL_PIPE_WAIT Request; the name follows."""

    timeout: U64
    name_length: U32
    timeout_specified: U8
    padding: U8


class CompressionState(NamedTuple):
    """[MS-FSCC] 2.3.18, 2.3.62: FSCTL_GET_COMPRESSION Reply, FSCTL_SET_COMPRESSION Request."""

    compression_state: U16


class IntegrityInformation(NamedTuple):
    """[MS-FSCC] 2.3.20 FSCTL_GET_INTEGRITY_INFORMATION Reply."""

    checksum_algorithm: U16
    reserved: U16
    flags: U32
    checksum_chunk_size_in_bytes: U32
    cluster_size_in_bytes: U32


class DuplicateExtentsData(NamedTuple):
    """[MS-FSCC] 2.3.7 FSCTL_DUPLICATE_EXTENTS_TO_FILE Request (SMB2 form)."""

    source_file_id_persistent: U64
    source_file_id_volatile: U64
    source_file_offset: I64
    target_file_offset: I64
    byte_count: I64


class FileLevelTrim(NamedTuple):
    """[MS-FSCC] 2.3.73 FSCTL_FILE_LEVEL_TRIM Request; NumRanges ranges follow."""

    key: U32
    num_ranges: U32


class FileLevelTrimRange(NamedTuple):
    """[MS-FSCC] 2.3.73.1 FILE_LEVEL_TRIM_RANGE."""

    offset: U64
    length: U64


class FileLevelTrimOutput(NamedTuple):
    """[MS-FSCC] 2.3.14 FSCTL_FILE_LEVEL_TRIM Reply."""

    num_ranges_processed: U32


class SrvReadHashRequest(NamedTuple):
    """[MS-SMB2] 2.2.31.2 SRV_READ_HASH Request."""

    hash_type: U32
    hash_version: U32
    hash_retrieval_type: U32
    length: U32
    offset: U64


class OffloadReadInput(NamedTuple):
    """[MS-FSCC] 2.3.41 FSCTL_OFFLOAD_READ Request."""

    size: U32
    flags: U32
    token_time_to_live: U32
    reserved: U32
    file_offset: U64
    copy_length: U64


class FileRegionInput(NamedTuple):
    """[MS-FSCC] 2.3.55 FSCTL_QUERY_FILE_REGIONS Request."""

    file_offset: I64
    length: I64
    desired_usage: U32
    reserved: U32


class FileRegionOutput(NamedTuple):
    """[MS-FSCC] 2.3.56 FSCTL_QUERY_FILE_REGIONS Reply; RegionEntryCount regions follow."""

    flags: U32
    total_region_entry_count: U32
    region_entry_count: U32
    reserved: U32


class FileRegionInfo(NamedTuple):
    """[MS-FSCC] 2.3.56.1 FILE_REGION_INFO."""

    file_offset: I64
    length: I64
    usage: U32
    reserved: U32


IOCTL_REQUEST = Layout(IoctlRequest)
IOCTL_RESPONSE = Layout(IoctlResponse)
SRV_COPYCHUNK_COPY = Layout(SrvCopychunkCopy)
SRV_COPYCHUNK = Layout(SrvCopychunk)
SRV_COPYCHUNK_RESPONSE = Layout(SrvCopychunkResponse)
SRV_REQUEST_RESUME_KEY_RESPONSE = Layout(SrvRequestResumeKeyResponse)
SRV_SNAPSHOT_ARRAY = Layout(SrvSnapshotArray)
SRV_READ_HASH_REQUEST = Layout(SrvReadHashRequest)
NETWORK_RESILIENCY_REQUEST = Layout(NetworkResiliencyRequest)
VALIDATE_NEGOTIATE_INFO_REQUEST = Layout(ValidateNegotiateInfoRequest)
VALIDATE_NEGOTIATE_INFO_RESPONSE = Layout(ValidateNegotiateInfoResponse)
NETWORK_INTERFACE_INFO = Layout(NetworkInterfaceInfo)
SOCKADDR_IN = Layout(SockaddrIn)
SOCKADDR_IN6 = Layout(SockaddrIn6)
FILE_ZERO_DATA_INFORMATION = Layout(FileZeroDataInformation)
FILE_ALLOCATED_RANGE_BUFFER = Layout(FileAllocatedRangeBuffer)
FILE_SET_SPARSE_BUFFER = Layout(FileSetSparseBuffer)
FILE_OBJECT_ID_BUFFER = Layout(FileObjectIdBuffer)
PIPE_PEEK_REPLY = Layout(PipePeekReply)
PIPE_WAIT_REQUEST = Layout(PipeWaitRequest)
COMPRESSION_STATE = Layout(CompressionState)
INTEGRITY_INFORMATION = Layout(IntegrityInformation)
DUPLICATE_EXTENTS_DATA = Layout(DuplicateExtentsData)
FILE_LEVEL_TRIM = Layout(FileLevelTrim)
FILE_LEVEL_TRIM_RANGE = Layout(FileLevelTrimRange)
FILE_LEVEL_TRIM_OUTPUT = Layout(FileLevelTrimOutput)
OFFLOAD_READ_INPUT = Layout(OffloadReadInput)
FILE_REGION_INPUT = Layout(FileRegionInput)
FILE_REGION_OUTPUT = Layout(FileRegionOutput)
FILE_REGION_INFO = Layout(FileRegionInfo)

IOCTL_REQUEST_STRUCTURE_SIZE = 57
IOCTL_RESPONSE_STRUCTURE_SIZE = 49
SOCKADDR_STORAGE_SIZE = 128
SOCKADDR_FAMILY_IPV4 = 0x0002
SOCKADDR_FAMILY_IPV6 = 0x0017
RSS_CAPABLE = 0x00000001
RDMA_CAPABLE = 0x00000002
COPYCHUNK_RESUME_KEY_SIZE = 24
